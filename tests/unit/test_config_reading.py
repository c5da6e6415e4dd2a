"""How values are read: strings, the command line and YAML files."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_oov.config import parse_command_line, parse_value
from recbole_oov.config.reading import read_config_file
from recbole_oov.errors import ConfigError

# ---- values ----


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("0.5", 0.5),
        (".5", 0.5),
        ("-3", -3),
        ("2_000", 2000),
        ("True", True),
        ("false", False),
        ("None", None),
        ("~", None),
        ("null", None),
        ("[10,20]", [10, 20]),
        ("['Recall','NDCG']", ["Recall", "NDCG"]),
        ("{'RS':[0.8,0.1,0.1]}", {"RS": [0.8, 0.1, 0.1]}),
        ("{RS: [1e-1, None, {a: True}]}", {"RS": [0.1, None, {"a": True}]}),
        ("'7'", "7"),
        ("adam", "adam"),
        ("[5,inf)", "[5,inf)"),
        ("(0,1]", "(0,1]"),
        ("007", "007"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("no", "no"),
        ("0,1", "0,1"),
        ("", ""),
        (" ", " "),
        ("\t", "\t"),
        ("|", "|"),
        ("#", "#"),
        ("a: b", "a: b"),
        ("__import__('os').getcwd()", "__import__('os').getcwd()"),
        ("!!python/object/apply:os.getcwd []", "!!python/object/apply:os.getcwd []"),
        ("[!!python/name:os.getcwd ]", "[!!python/name:os.getcwd ]"),
        ("[" * 5000, "[" * 5000),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_a_string_becomes_the_value_that_it_stands_for(text: str, value: object) -> None:
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_a_mapping_without_a_space_after_the_colon_is_explained() -> None:
    with pytest.raises(ConfigError, match="space after the colon"):
        parse_value("{a:1, b:2}")


@given(st.text())
def test_a_value_is_parsed_or_refused_whatever_it_is(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_value(text)


EVALUATED: list[int] = []


def evaluated() -> int:
    EVALUATED.append(1)
    return 1


yaml_like = st.text(alphabet="[]{}()'\":,-!&*|>%@` \n0123456789eE.~#=abcNoneTrue_", max_size=40)


@given(
    st.lists(
        st.one_of(st.text(max_size=30), yaml_like, st.tuples(st.text(), yaml_like).map(lambda t: f"--{t[0]}={t[1]}"))
    )
)
def test_the_command_line_evaluates_nothing_and_raises_config_errors_alone(argv: list[str]) -> None:
    argv = [*argv, "--x=evaluated()", "--y=[evaluated()]", f"--z={__name__}.evaluated()"]
    with contextlib.suppress(ConfigError):
        assert parse_command_line(argv)["x"] == "evaluated()"
    assert not EVALUATED


def test_a_value_on_the_command_line_may_hold_equals_signs() -> None:
    assert parse_command_line(["--a=b=c", "--time-aware=True"]) == {"a": "b=c", "time-aware": True}
    assert parse_command_line(["--a=1", "--a=1"]) == {"a": 1}


def test_a_data_set_may_be_called_as_a_number_is() -> None:
    assert parse_command_line(["--dataset=1e3", "--seed=1e3"]) == {"dataset": "1e3", "seed": 1000.0}
    assert parse_command_line(["--dataset=~"]) == {"dataset": None}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--epochs", "3"], ["--epochs has no value; write --epochs=value", "'3' is not an option"]),
        (["epochs=3"], ["'epochs=3' is not an option; options are written --key=value"]),
        (["-e=3"], ["'-e=3' is not an option"]),
        (["--=3"], ["'--=3' is not an option"]),
        (["--epochs=3", "--epochs=4"], ["--epochs is given twice, as '3' and as '4'"]),
    ],
)
def test_a_malformed_command_line_is_explained(argv: list[str], said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_command_line(argv)
    assert len(caught.value.errors) == len(said)
    for error, words in zip(caught.value.errors, said, strict=True):
        assert words in error


# ---- files ----


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs: [1, 2\nseed: 3", "line 2, column 5, is not valid YAML"),
        ("- epochs\n- 3", "holds a list; it must hold lines of the form key: value"),
        ("epochs", "holds 'epochs' alone"),
        ("epochs: 1\nepochs: 2", "line 2, column 1, is not valid YAML: the key 'epochs' twice"),
        ("x: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("3: 4", "a key that is not a name: 3"),
        ("a: *b", "not valid YAML"),
        ("a: " + "[" * 1100, "not valid YAML"),
        ("\tepochs: 1", "not valid YAML"),
    ],
)
def test_a_bad_config_file_is_explained(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="config file") as caught:
        read_config_file(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


@given(st.binary(max_size=60))
def test_any_bytes_in_a_config_file_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.yaml"
    path.write_bytes(content)
    with contextlib.suppress(ConfigError):
        assert isinstance(read_config_file(path), dict)
