"""Configurations are validated, and what is wrong is named together with what would be right."""

import pytest
import yaml

from meristem.errors import ConfigError
from meristem.train.config import TrainConfig, parse_config, read_config, to_yaml


def test_the_printed_default_is_complete_and_reads_back(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(TrainConfig()))
    assert read_config(path) == TrainConfig()
    assert set(yaml.safe_load(path.read_text())) == set(TrainConfig.model_fields)


def test_what_is_left_out_has_its_default(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("epochs: 3\ngrow: {amount: 8}\nprune: null\n")
    config = read_config(path)
    assert config.epochs == 3
    assert config.grow is not None
    assert (config.grow.amount, config.grow.method) == (8, "ZeroFanOut")
    assert isinstance(config.grow.amount, int)
    assert config.prune is None
    path.write_text("")
    assert read_config(path) == TrainConfig()


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ({"epoch": 3}, ["epoch: unknown key", "did you mean 'epochs'"]),
        ({"grow": {"methode": "TINY"}}, ["grow.methode: unknown key", "'method'"]),
        ({"grow": {"method": "TINI"}}, ["grow.method:", "no such growth method", "TINY", "found 'TINI'"]),
        ({"zzz": 3}, ["zzz: unknown key", "expected one of name, data"]),
        ({"epochs": 0}, ["epochs:", "greater than or equal to 1", "found 0"]),
        ({"data": "../mnist"}, ["data:", "found '../mnist'"]),
        ({"prune": {"criterion": "tailor"}}, ["prune.criterion:", "no such criterion", "Taylor,", "module:name"]),
        ({"grow": {"start": 5, "stop": 4}}, ["grow:", "stop (4.0) should not come before start (5.0)"]),
        ({"prune": {"amount": 1.5}}, ["prune:", "share below 1"]),
        ({"optimizer": {"learning_rate": -1}}, ["optimizer.learning_rate", "found -1"]),
        ({"name": "../outside"}, ["name:", "found '../outside'"]),
        ([1, 2], ["(top level)", "found [1, 2]"]),
        ({"epochs": 0, "batch_size": 1}, ["epochs:", "batch_size:"]),
    ],
)
def test_errors_name_the_field_the_value_and_what_is_allowed(content, parts):
    with pytest.raises(ConfigError) as caught:
        parse_config(content, "config.yaml")
    for part in ["config.yaml is not valid", *parts]:
        assert part in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="print-config"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not a YAML file"):
        read_config(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_text("!!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigError, match="not a YAML file"):
        read_config(tmp_path / "bad.yaml")
