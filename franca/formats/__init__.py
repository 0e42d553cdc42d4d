"""Models in standard formats: one file a format, each a function `write(model, folder) -> Contents`."""

FORMATS = {
    "safetensors": "Franca's own model folder",
    "timm": "for timm.create_model",
    "official": "checkpoints of the official Franca and RASA code",
    "onnx": "for ONNX Runtime, uint8 images in",
    "huggingface": "for transformers.AutoModel",
    "torchhub": "for torch.hub.load",
}
