"""Text of `results/register/receipt.json`, for the terminal and for Markdown pages."""

from typing import Any


def receipt_text(receipt: dict[str, Any], markdown: bool = False) -> str:
    """Return the registered version, its aliases, why it has them, and links to MLflow's pages.

    Args:
        receipt: The content of `receipt.json`.
        markdown: Mark up headings, lists and links; by default the text is plain and indented.
    """
    aliases = ", ".join(receipt["aliases"]) or "no alias"
    version, server = f"{receipt['model']} version {receipt['version']}", receipt["tracking_uri"]
    decision, links = receipt["decision"], receipt["links"].items()
    if not markdown:
        lines = [f"{version} ({aliases}) on {server}", *(f"  {sentence}" for sentence in decision)]
        return "\n".join([*lines, *(f"  {page}: {url}" for page, url in links)])
    reason, *details = decision
    # As code, because Markdown makes a link of an address, and inside containers browsers cannot open it.
    lines = [f"**{version}** ({aliases}) on `{server}`", "", f"**{reason}**", ""]
    lines += [f"- {sentence}" for sentence in details]
    return "\n".join([*lines, *(f"- [{page} in MLflow]({url})" for page, url in links)])
