"""The table of all fields, from which documentation is generated."""

from franca import presets
from franca.presets.reference import sections
from tests.params.test_all_parameters import LEAVES


def test_every_field_is_in_its_section() -> None:
    found = {field.key: (section, field) for section in sections() for field in section.fields}
    assert set(found) == set(LEAVES) - {"datasets"}, "whose entries are listed"
    for key, (section, field) in found.items():
        assert field.key == f"{section.key}.{key.rpartition('.')[2]}"
        assert field.type and field.description.endswith(".")
        assert set(field.presets) == (set() if "[]" in key or "NAME" in key else set(presets.names()))


def test_types_bounds_and_values() -> None:
    facts = {field.key: field for section in sections() for field in section.fields}
    assert facts["pretrain.epochs"][1:3] == ("number", ">= 0, <= 1000000.0")
    assert facts["pretrain.epoch_length"][1:3] == ("integer | null", ">= 1")
    assert facts["base.mean"][1:3] == ("list of 3 numbers | auto", ">= 0, <= 1")
    assert facts["pretrain.heads.nesting"].type == "project | slice | none"
    assert facts["evaluate.linear_c"][1:3] == ("list of numbers", "> 0")
    assert facts["register.gates"].type == "list of sections"
    assert facts["register.gates[].floor"].type == "number | null"
    assert facts["pretrain.losses.contrastive_weight"].presets["overhead-cpu"] == 1.0
    assert [section.key for section in sections()][:4] == ["base", "base.backbone", "prepare", "pretrain"]
