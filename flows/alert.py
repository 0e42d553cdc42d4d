"""Where alerts go: the block on the Prefect server that holds the address, and the action that uses it."""

from typing import Any, cast
from urllib.parse import urlsplit
from uuid import UUID

from prefect.blocks.notifications import SlackWebhook
from prefect.blocks.webhook import Webhook
from prefect.events.actions import ActionTypes, CallWebhook, SendNotification
from prefect.types import SecretDict
from pydantic import SecretStr

from franca.errors import FrancaError

VARIABLE = "FRANCA_ALERT_URL"
WEB = ("http", "https")
BLOCK = "franca-alerts"
"""Name of the block; its address is kept encrypted, and the pages of the server do not show it."""


class Alerts:
    """Makes the actions of automations that send to one address."""

    def __init__(self, address: str) -> None:
        """Save the address on the server.

        Args:
            address: `http://` or `https://` for a webhook that gets JSON, else an address of Apprise: `mailtos://...`
                for mail, or any other of its services.

        Raises:
            FrancaError: It is neither.
        """
        check_address(address)
        self._is_webhook = urlsplit(address).scheme in WEB
        if self._is_webhook:
            headers = SecretDict({"Content-Type": "application/json"})
            webhook = Webhook(url=SecretStr(address), headers=headers)
            self._block = cast(UUID, webhook.save(BLOCK, overwrite=True))
            return
        # Of the blocks that each server has, this one passes any address on to Apprise. Blocks of other packages would
        # have to be installed on the server.
        self._block = cast(UUID, SlackWebhook(url=SecretStr(address)).save(BLOCK, overwrite=True))

    def action(self, title: str, text: str, **fields: str) -> ActionTypes:
        """Return the action that sends an alert.

        Args:
            title: Subject of a mail.
            text: The message, a Jinja template.
            **fields: Further values of the JSON object that a webhook gets, as Jinja expressions.
        """
        if not self._is_webhook:
            return SendNotification(block_document_id=self._block, subject=title, body=text)
        values: dict[str, Any] = {"title": f"'{title}'", "text": "text", "event": "event.event", **fields}
        pairs = ", ".join(f'"{name}": {{{{ ({value}) | string | tojson }}}}' for name, value in values.items())
        return CallWebhook(block_document_id=self._block, payload=f"{{% set text %}}{text}{{% endset %}}{{{pairs}}}")


def check_address(address: str) -> None:
    """Raise FrancaError if alerts cannot be sent to an address, which may have a password and is not repeated."""
    from apprise import Apprise

    parts = urlsplit(address)
    fits = bool(parts.netloc) if parts.scheme in WEB else Apprise().add(address)
    if not fits:
        raise FrancaError(
            f"{VARIABLE}: neither http(s):// nor an address of Apprise; for mail: "
            "mailtos://USER:PASSWORD@HOST?from=ADDRESS&to=ADDRESS"
        )
