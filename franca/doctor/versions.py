"""Whether a server is of a version that goes with the installed client."""

from franca.doctor.finding import Finding, ok, warning


def compare_versions(check: str, address: str, server: str, client: str) -> Finding:
    """Return a finding about a server that answers.

    Versions that differ in the last number only go together.

    Args:
        check: Name of the check.
        address: Address of the server, without password.
        server: Its version.
        client: The version installed here.
    """
    if server.split(".")[:2] == client.split(".")[:2]:
        return ok(check, f"{address}: version {server}")
    said = server if server[:1].isdigit() and len(server) < 30 else "unknown"
    fix = "install requirements.lock on both sides"
    return warning(check, f"{address}: version {said}, and {client} is installed here", fix)
