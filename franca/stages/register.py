"""The register stage: complete the MLflow run from files, register the model, and check its gates."""

from franca.params import Params
from franca.tracking.receipt import receipt_text
from franca.tracking.unchanged import read_unchanged


def run(params: Params) -> None:
    """Bring the tracking server up to date with the project's files, print and write the receipt."""
    receipt = read_unchanged(params)
    if receipt is None:
        # Imports torch and MLflow, which takes seconds that a `dvc repro` without changes need not wait for.
        from franca.tracking.registration import register

        receipt = register(params)
    print(receipt_text(receipt))
    if not receipt["links"]:
        print(f"  to look at it: mlflow ui --backend-store-uri {receipt['tracking_uri']}")
