"""Networks from names: sizes as published, robust names, passes as rows ask for them."""

from __future__ import annotations

import pytest

from mixq.errors import UsageError
from mixq.predict.jobs import Job, job_of
from mixq.predict.models import catalogue
from mixq.predict.models.names import canonical, names
from mixq.predict.models.transformer import Transformer
from mixq.predict.models.workload import Operation
from mixq.predict.rows import parse_rows

NETWORKS = {
    # millions of parameters and billions of multiply-accumulates: torchvision's documentation of
    # its weights, timm's results, the papers named in the tables' sources.
    "alexnet": (61.1, 0.71),
    "densenet121": (8.0, 2.83),
    "densenet161": (28.7, 7.73),
    "densenet169": (14.1, 3.36),
    "densenet201": (20.0, 4.29),
    "efficientnet_b0": (5.3, 0.39),
    "efficientnet_b3": (12.2, 1.83),
    "efficientnet_b7": (66.3, 37.75),
    "efficientnet_lite0": (4.7, 0.40),
    "efficientnet_lite4": (13.0, 2.64),
    "ghostnet": (5.2, 0.14),
    "googlenet": (7.0, 1.58),
    "inception_v3": (23.8, 5.73),
    "inception_v4": (42.7, 12.28),
    "inception_resnet_v2": (55.8, 13.18),
    "mnasnet1_0": (4.4, 0.31),
    "mobilenet_v1": (4.2, 0.57),
    "mobilenet_v2": (3.5, 0.30),
    "mobilenet_v3_large": (5.5, 0.22),
    "mobilenet_v3_small": (2.5, 0.06),
    "peleenet": (2.8, 0.51),
    "regnet_y_400mf": (4.3, 0.40),
    "resnest50": (27.5, 5.40),
    "resnet18": (11.7, 1.81),
    "resnet34": (21.8, 3.66),
    "resnet50": (25.6, 4.09),
    "resnet50_v1": (25.6, 3.86),
    "resnet101": (44.5, 7.80),
    "resnet152": (60.2, 11.51),
    "resnext50_32x4d": (25.0, 4.23),
    "resnext101_32x8d": (88.8, 16.41),
    "seresnext50_32x4d": (27.6, 4.26),
    "shufflenet_v1": (1.9, 0.14),
    "shufflenet_v2_x1_0": (2.3, 0.15),
    "squeezenet1_0": (1.25, 0.82),
    "squeezenet1_1": (1.24, 0.35),
    "ssd_mobilenet_v1": (6.8, 1.24),
    "ssd_resnet34": (20.0, 216.5),
    "swin_tiny": (28.3, 4.49),
    "vgg16": (138.4, 15.47),
    "vgg19": (143.7, 19.63),
    "wide_resnet50_2": (68.9, 11.40),
    "yolov3": (61.9, 32.95),
    "yolov3_tiny": (8.9, 2.78),
}
TRANSFORMERS = {
    # millions of parameters, from the models' cards and papers
    "albert_base": 11.7,
    "bart_large": 406,
    "bert_base": 110,
    "bert_large": 335,
    "bert_mini": 11.2,
    "bitnet_2b": 2413,
    "bloom_176b": 176000,
    "camembert_base": 110,
    "deberta_base": 139,
    "distilbert": 66,
    "electra_small": 13.5,
    "falcon_7b": 6920,
    "falcon_40b": 41300,
    "falcon_180b": 180000,
    "gemma2_2b": 2614,
    "gpt2": 124,
    "gpt2_xl": 1558,
    "gptj_6b": 6050,
    "llama_2_7b": 6738,
    "llama_2_13b": 13016,
    "llama_2_70b": 68977,
    "llama_3_8b": 8030,
    "llama_3_2_1b": 1236,
    "llama_3_2_3b": 3213,
    "mbart": 611,
    "minilm_l12": 33,
    "mistral_7b": 7242,
    "mixtral_8x7b": 46703,
    "mobilebert": 25,
    "opt_1_3b": 1316,
    "opt_175b": 175000,
    "pegasus": 570,
    "phi_2": 2780,
    "qwen1_5_72b": 72300,
    "qwen2_7b": 7616,
    "qwen2_5_0_5b": 494,
    "qwen3_8b": 8190,
    "roberta_base": 125,
    "squeezebert": 51,
    "t5_base": 223,
    "tinyllama": 1100,
    "vit_b16_224": 86.6,
    "vit_l16_384": 304.7,
    "xlm_roberta_base": 278,
    "yi_34b": 34389,
}
NAMES = {
    "BERT large uncased whole word masking SQuAD (HuggingFace)": "bert_large",
    "BERT base MRPC STATIC": "bert_base",
    "DistilBERT base uncased SST-2 (HuggingFace)": "distilbert",
    "Funnel&nbsp;&nbsp;&nbsp;MRPC": "funnel_small",
    "Xlm Roberta MRPC": "xlm_roberta_base",
    "Camembert base MRPC (HuggingFace)": "camembert_base",
    "Mobile bert MRPC": "mobilebert",
    "lvwerra/pegasus-samsum": "pegasus",
    "LayoutLMv3 FUNSD (HuggingFace)": "layoutlm_v3",
    "ResNet50 V1.5 (ONNX Model Zoo)": "resnet50",
    "ResNet50 v1.0": "resnet50_v1",
    "ResNet50 Fashion": "resnet50_small",
    "ResNetV2 101": "resnet_v2_101",
    "SSD ResNet50 V1": "ssd_resnet50",
    "SSD MobileNet v1": "ssd_mobilenet_v1",
    "mobilenet_ssd": "ssd_mobilenet_v1",
    "Faster R-CNN ResNet101": "faster_rcnn_resnet101",
    "Tiny YOLOv3": "yolov3_tiny",
    "YOLOv3": "yolov3",
    "MobileNet V3 MLPerf": "mobilenet_v3_large",
    "ViT-B/16-384": "vit_b16_384",
    "ViT-L/16-224": "vit_l16_224",
    "VIT": "vit_b16_224",
    "Inception ResNet V2": "inception_resnet_v2",
    "Llama-2-7B prefill W2": "llama_2_7b",
    "LLaMA-3.1-8B prefill": "llama_3_8b",
    "Llama-13B all linear layers": "llama_13b",
    "Llama-2-13B decode": "llama_2_13b",
    "BitNet-b1.58-2B-4T generate": "bitnet_2b",
    "Qwen-1.5-72B serving": "qwen1_5_72b",
    "facebook/opt-1.3b": "opt_1_3b",
    "OPT-13B": "opt_13b",
    "T5-base": "t5_base",
}
HEADER = (
    "chip,runtime,kernel,model_or_op,batch,seq,weight_bits,act_bits,metric,value,unit,M,N,K,"
    "cores_or_threads\n"
)


def job(**cells: object) -> Job:
    row = {
        "chip": "A100-80GB",
        "runtime": "r",
        "kernel": "k",
        "batch": 1,
        "seq": "",
        "weight_bits": 16,
        "act_bits": 16,
    }
    row |= {"metric": "latency", "unit": "ms", "value": 1} | cells
    line = ",".join(str(row.get(name, "")) for name in HEADER.strip().split(","))
    return job_of(parse_rows(HEADER + line + "\n", origin="test")[1][0])


@pytest.mark.parametrize("name", NETWORKS)
def test_network_has_its_published_size(name: str) -> None:
    parameters, macs = NETWORKS[name]
    found = catalogue.network(name)
    assert found.parameters / 1e6 == pytest.approx(parameters, rel=0.03)
    assert found.macs / 1e9 == pytest.approx(macs, rel=0.05, abs=0.006)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformer_has_its_published_size(name: str) -> None:
    found = catalogue.transformer(name)
    assert found is not None
    # MobileBERT's bottlenecks and no-norms are counted roughly.
    tolerance = 0.26 if name == "mobilebert" else 0.03
    assert found.parameters / 1e6 == pytest.approx(TRANSFORMERS[name], rel=tolerance)


@pytest.mark.parametrize(("name", "network"), NAMES.items(), ids=list(NAMES))
def test_name_in_published_tables(name: str, network: str) -> None:
    assert canonical(name) == network


def test_every_name_leads_to_something_that_runs() -> None:
    for network in set(names().values()):
        model = catalogue.transformer(network)
        work = catalogue.network(network) if model is None else model.forward(1, 8)
        assert work.macs > 0
        assert work.parameters > 0


@pytest.mark.parametrize("name", ["resnext 49", "gemm", "", "a" * 300])
def test_unknown_model_is_refused_with_near_names(name: str) -> None:
    with pytest.raises(
        UsageError, match=r"^model .* is not one that can be built; (near|known) are \w+"
    ) as caught:
        canonical(name)
    assert "\n" not in str(caught.value)


def test_batch_repeats_activations_and_no_weights() -> None:
    one, four = catalogue.network("resnet50"), catalogue.network("resnet50", 4)
    assert four.macs == 4 * one.macs
    assert four.weights == one.weights


def test_decoding_reads_every_weight_once() -> None:
    model = catalogue.transformer("llama_2_7b")
    assert model is not None
    table = model.vocab * model.hidden
    step = model.decode(1, 100)
    # Norms are not counted, and the table of tokens is looked up in one row.
    assert step.weights == pytest.approx(model.parameters - table, rel=1e-3)
    attention = sum(each.macs for each in step.operations if each.kind == "attention")
    assert attention == 2 * 32 * 4096 * 100


def test_prompt_costs_what_its_tokens_do() -> None:
    model = catalogue.transformer("llama_2_7b")
    assert model is not None
    linear = sum(
        e.macs for e in model.forward(1, 64).operations if e.kind == "gemm" and e.role == "body"
    )
    single = sum(
        e.macs for e in model.decode(1, 1).operations if e.kind == "gemm" and e.role == "body"
    )
    assert linear == 64 * single


def test_experts_run_as_often_as_tokens_meet_them() -> None:
    model = catalogue.transformer("mixtral_8x7b")
    assert model is not None
    assert model.decode(1, 1).macs / 1e9 == pytest.approx(
        12.7, rel=0.03
    )  # 12.9 billion active parameters


@pytest.mark.parametrize(
    ("cells", "phase", "things"),
    [
        ({"model_or_op": "BERT base MRPC", "cores_or_threads": "56c: 14 inst x 4c"}, "forward", 1),
        ({"model_or_op": "ResNet50 V1.5", "batch": 8}, "forward", 8),
        (
            {"model_or_op": "Llama-2-7B decode", "metric": "decode_throughput", "unit": "tok/s"},
            "decode",
            1,
        ),
        (
            {
                "model_or_op": "Llama-2-7B prefill",
                "metric": "prefill_throughput",
                "unit": "tok/s",
                "seq": 512,
            },
            "prefill",
            512,
        ),
        (
            {"model_or_op": "Gemma-2-2B generate", "metric": "e2e_latency", "seq": "64+16"},
            "generate",
            16,
        ),
        (
            {
                "model_or_op": "LLaMA-7B serving",
                "metric": "throughput",
                "unit": "tok/s",
                "seq": "128+128",
                "batch": 384,
            },
            "serving",
            384 * 128,
        ),
    ],
    ids=["instances", "batch", "decode", "prefill", "generate", "serving"],
)
def test_what_a_row_runs(cells: dict[str, object], phase: str, things: int) -> None:
    found = job(**cells)
    assert (found.phase, found.things) == (phase, things)


def test_tokens_of_a_task_where_the_table_has_none() -> None:
    short, long = job(model_or_op="BERT base MRPC"), job(model_or_op="BERT base SQuAD")
    linear = [
        sum(e.macs for e in each.passes[0][0].operations if e.kind == "gemm")
        for each in (short, long)
    ]
    assert linear[1] / linear[0] == pytest.approx(3, rel=0.001)  # 128 and 384, and one pooler
    assert short.note == "128 tokens"


def test_serving_takes_the_batch_that_memory_allows() -> None:
    asked = {
        "model_or_op": "Llama-2-7B serving",
        "metric": "max_throughput",
        "unit": "tok/s",
        "seq": "1024+512",
        "batch": "",
    }
    found = job(**asked)
    # 90% of 80 GB less 13.5 GB of weights, over 1536 tokens of half a MiB each.
    assert (
        found.note == f"batch {int((0.9 * 80e9 - 2 * 6.738e9) // (2**19 * 1536))} fits the memory"
    )
    with pytest.raises(UsageError, match="leaves no room for one text of 1536 tokens in 80 GB"):
        job(**asked | {"model_or_op": "Llama-2-70B serving"})


def test_unnamed_model_is_taken_as_a_usual_one_and_says_so() -> None:
    found = job(
        model_or_op="model as named in PR decode", metric="decode_throughput", unit="tok/s"
    )
    assert found.network == "mistral_7b"
    assert "does not name the model" in found.note


def test_operations_become_work_of_their_bytes() -> None:
    work = Operation("gemm", m=2, n=3, k=4, read=8, written=6).work(2)
    assert (work.macs, work.input_bytes, work.output_bytes) == (24, 16, 12)


def test_shared_weights_count_once() -> None:
    model = Transformer("t", layers=3, hidden=8, heads=2, ffn=16)
    shared = Transformer("t", layers=3, hidden=8, heads=2, ffn=16, shared=True)
    assert model.parameters == 3 * shared.parameters
    assert model.forward(1, 4).macs == shared.forward(1, 4).macs
