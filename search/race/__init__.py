"""The race: sensitivities from as few measurements as the plan needs.

`evidence` is what is known of each unit in each format, `contest` what plans from it agree about,
`meter` measures what they do not; `race` goes round until nothing is left that matters.
"""
