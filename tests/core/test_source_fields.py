"""Fields that are read from source are those of the imported class."""

import dataclasses

import pytest
from trl import ModelConfig

from pluralign.core.source_fields import field_names
from pluralign.training.objectives import OBJECTIVES


@pytest.mark.parametrize("name", OBJECTIVES)
def test_configs_have_the_fields_that_their_source_shows(name):
    entry = OBJECTIVES[name]
    expected = {field.name for field in dataclasses.fields(entry.config) if field.init}
    assert field_names(entry.config_module, f"{entry.stem}Config") == expected


def test_a_class_of_a_library_is_found_through_its_package():
    assert field_names("trl", "ModelConfig") == {field.name for field in dataclasses.fields(ModelConfig)}
    for module, name in (("no_such_library", "Config"), ("trl", "NoSuchConfig")):
        with pytest.raises(LookupError):
            field_names(module, name)
