"""docker/kubernetes: valid by Kubernetes' schemas, the same services as compose's, and as confined."""

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from franca.params import read_yaml

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docker/kubernetes"
SERVICES: dict[str, dict[str, Any]] = read_yaml(ROOT / "docker/compose.yaml")["services"]
KUSTOMIZATION = read_yaml(FOLDER / "kustomization.yaml")
MANIFESTS: list[dict[str, Any]] = [
    manifest for name in KUSTOMIZATION["resources"] for manifest in YAML(typ="safe").load_all(FOLDER / name)
]
PODS: dict[str, dict[str, Any]] = {
    manifest["metadata"]["name"]: manifest["spec"]["template"]
    for manifest in MANIFESTS
    if "template" in manifest.get("spec", {})
}
ADDRESSES = dict(literal.split("=", 1) for literal in KUSTOMIZATION["configMapGenerator"][0]["literals"])


@pytest.mark.parametrize(
    "manifest", MANIFESTS, ids=[f"{manifest['kind']}-{manifest['metadata']['name']}" for manifest in MANIFESTS]
)
def test_manifests_are_valid(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, "1.37", strict=True)


def test_a_misspelt_field_is_found() -> None:
    with pytest.raises(kubernetes_validate.ValidationError, match="servicename"):
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"servicename": "a"}},
            "1.37",
            strict=True,
        )


def test_each_file_is_listed() -> None:
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert files == set(KUSTOMIZATION["resources"]) and PODS.keys() == SERVICES.keys()


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_those_of_compose(name: str) -> None:
    (container,) = PODS[name]["spec"]["containers"]
    service = SERVICES[name]

    def resolved(value: str) -> str:
        return re.sub(r"\$\{(\w+):-[^}]*\}|\$\((\w+)\)", lambda found: ADDRESSES[found[1] or found[2]], value)

    expected = {variable: resolved(value) for variable, value in service["environment"].items()}
    found = {
        variable["name"]: resolved(variable["value"])
        if "value" in variable
        else ADDRESSES[variable["valueFrom"]["configMapKeyRef"]["key"]]
        for variable in container["env"]
        if variable["name"] not in {"PGDATA", "PUBLIC_HOST", "PREFECT_PUBLIC_URL"}
    }
    assert found == expected
    if "build" in service:
        assert [*container["args"]] == service["command"].split()
        assert container["image"] in {image["name"] for image in KUSTOMIZATION["images"]}
    else:
        assert container["image"] == service["image"]
    secrets = [volume["secret"] for volume in PODS[name]["spec"]["volumes"] if "secret" in volume]
    assert [item["key"] for secret in secrets for item in secret["items"]] == service["secrets"]


@pytest.mark.parametrize("name", PODS)
def test_pods_are_confined(name: str) -> None:
    pod = PODS[name]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod["enableServiceLinks"]
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"].keys() == {"cpu", "memory"}
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    claims = {"data"} if name in {"db", "objects"} else set()
    assert mounted == {volume["name"] for volume in pod["volumes"]} | claims


def test_databases_are_those_of_compose() -> None:
    (found,) = [manifest["data"] for manifest in MANIFESTS if manifest["kind"] == "ConfigMap"]
    assert found == {"databases.sql": (ROOT / "docker/databases.sql").read_text()}
