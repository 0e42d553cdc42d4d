"""Models in standard formats, one module per format.

A format is a module `franca.formats.NAME` and a line in `FORMATS`. The module has

- `write(model, folder) -> ExportInfo`: write the model to an empty folder, and return what the format cannot hold.
- `read(path) -> FrancaModel`, if a file or folder of the format is enough to build the model.

Weights of timm do not name their architecture, so `timm` has `from_hub` and `from_state` with a model name instead.
"""

FORMATS = {
    "safetensors": "Franca's own model folder",
    "timm": "for timm.create_model",
    "official": "checkpoints of the official Franca and RASA code",
    "onnx": "for ONNX Runtime, uint8 images in",
    "huggingface": "for transformers.AutoModel",
    "torchhub": "for torch.hub.load",
}
"""Names of the formats, with a description for `franca export --help`."""
