"""Networks behind `model_tables.py`: from torchvision and timm, or defined here."""
