"""The text of a receipt."""

from typing import Any

from franca.tracking.receipt import receipt_text

RECEIPT: dict[str, Any] = {
    "model": "franca",
    "version": "3",
    "aliases": ["champion"],
    "tracking_uri": "http://host:5000",
    "decision": ["all gates hold", "knn/val/top1 70.00 holds: no champion yet"],
    "links": {"run": "http://host:5000/#/run"},
}


def test_plain_text() -> None:
    assert receipt_text(RECEIPT).splitlines() == [
        "franca version 3 (champion) on http://host:5000",
        "  all gates hold",
        "  knn/val/top1 70.00 holds: no champion yet",
        "  run: http://host:5000/#/run",
    ]
    assert receipt_text(RECEIPT | {"aliases": []}).startswith("franca version 3 (no alias) on ")


def test_markdown() -> None:
    assert receipt_text(RECEIPT, markdown=True).splitlines() == [
        "**franca version 3** (champion) on `http://host:5000`",
        "",
        "**all gates hold**",
        "",
        "- knn/val/top1 70.00 holds: no champion yet",
        "- [run in MLflow](http://host:5000/#/run)",
    ]
