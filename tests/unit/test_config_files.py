"""Reading what users write: YAML as people mean it, and every mistake told at once with its place."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from last_e.config import TrainConfig
from last_e.layers import resolve
from last_e.problems import ConfigError, Problem
from last_e.reading import MAX_YAML_BYTES, load_file, parse_value, set_layer

QUICK = settings(max_examples=150, derandomize=True, deadline=None, database=None)
YAMLISH = st.text(alphabet=st.sampled_from(list("ab01._-+:,{}[]\"'#&*!|>?%@`<=~ \n\tetrufalsn\\x\x00é\u2028😀")), max_size=40)


def problems_of(text: str | bytes, tmp_path: Path) -> list[Problem]:
    path = tmp_path / "job.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_file(path, "job.yaml")[1]


# --- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("7", 7),
        ("-7", -7),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1e-4'", "1e-4"),
        ("[1, 2.5, x]", [1, 2.5, "x"]),
        ("{a: 1}", {"a": 1}),
        ("e5", "e5"),
        ("1e", "1e"),
        ("/data/ntu60.safetensors", "/data/ntu60.safetensors"),
        ("s3://bucket/key", "s3://bucket/key"),
    ],
)
def test_a_value_is_read_as_people_mean_it(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2",
        "{a: 1, a: 2}",
        "[&x 1, *x]",
        "*x",
        "a: b: c",
        "[" * 5000,
        "[" * 5000 + "]" * 5000,
        "!!python/object/apply:os.system ['true']",
        "\x00",
        "'open",
        "%",
        "9" * 5000,
    ],
)
def test_what_is_no_plain_yaml_is_a_value_error_of_one_line(text):
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        parse_value(text)


@pytest.mark.parametrize(
    "text", ["{[1]: 2}", "? {a: b}\n: c", "!!bool xyz", "!!timestamp x", '!!int ""', '!!float ""', '"\\UFFFFFFFF"', "!!map x"]
)
def test_odd_tags_keys_and_escapes_are_a_value_error_too(text, tmp_path):
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        parse_value(text)
    assert problems_of(f"x: {text}" if "\n" not in text else text, tmp_path)


@pytest.mark.parametrize("text", ["1:30", "010", "0o17", "2024-01-01"])
def test_old_yaml_number_formats_never_become_a_different_number(text):
    """YAML 1.1 reads 1:30 as 90 and 010 as 8; whoever types that means something else."""
    assert parse_value(text) in (text, 10)


@QUICK
@given(YAMLISH | st.text(max_size=20))
@pytest.mark.slow
def test_any_text_is_a_value_or_a_value_error(text):
    message = "one line"
    try:
        parse_value(text)
    except ValueError as error:
        message = str(error)
    assert len(message.splitlines()) == 1


@QUICK
@given(st.binary(max_size=60) | YAMLISH.map(lambda text: text.encode()))
@pytest.mark.slow
def test_any_bytes_are_a_layer_or_problems(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(content)
    layer, problems = load_file(path)
    assert not (layer and problems)
    for problem in problems:
        assert len(str(problem).splitlines()) == 1


@QUICK
@given(st.lists(YAMLISH, max_size=3))
def test_any_words_after_set_are_a_layer_or_problems(words):
    layer, problems = set_layer(words)
    told = None
    try:
        resolve([layer], TrainConfig, problems, detect=lambda: ("local", ""))
    except ConfigError as error:
        told = error.problems
    assert bool(told) == (told is not None)
    assert told or not problems


# --- files -------------------------------------------------------------------------------------------------------------


def test_a_file_becomes_dotted_keys_with_their_lines(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("# a comment\nmodel: nano\n\ntraining:\n  lr: 1e-2\n  milestones: [1,\n    2]\nhardware.num_workers: 1\n")
    layer, problems = load_file(path, "job.yaml")
    assert not problems
    assert {key: (entry.value, str(entry.origin)) for key, entry in layer.items()} == {
        "model": ("nano", "job.yaml:2"),
        "training.lr": (0.01, "job.yaml:5"),
        "training.milestones": ([1, 2], "job.yaml:6"),
        "hardware.num_workers": (1, "job.yaml:8"),
    }


def test_an_empty_file_says_nothing(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("# only a comment\n")
    assert load_file(path) == ({}, [])


@pytest.mark.parametrize(
    ("text", "where", "word"),
    [
        ("training:\n  lr: 1\n  lr: 2\n", "job.yaml:3", "lr is set twice"),
        ("a: &x 1\nb: *x\n", "job.yaml:2", "aliases"),
        ("a: 1\n\tb: 2\n", "job.yaml:2", ""),
        ("a: [1, 2\n", "job.yaml:1", ""),
        ("a: " + "[" * 5000, "job.yaml", "nested too deep"),
        (b"a: \xff\xfe\n", "job.yaml", "not UTF-8"),
        ("- 1\n- 2\n", "job.yaml", "[1, 2]"),
        ("just words\n", "job.yaml", "just words"),
        ("a: 1\n---\nb: 2\n", "job.yaml:2", "document"),
        ("# " + "x" * MAX_YAML_BYTES, "job.yaml", f"more than {MAX_YAML_BYTES} bytes"),
    ],
    ids=["duplicate", "alias", "tab", "open", "deep", "not utf-8", "list", "text", "two documents", "huge"],
)
def test_a_file_that_cannot_be_used_is_one_problem_with_its_place(tmp_path, text, where, word):
    (problem,) = problems_of(text, tmp_path)
    assert problem.origin == where
    assert word in problem.found
    assert "\n" not in str(problem)


@pytest.mark.parametrize(
    ("text", "where", "found", "allowed"),
    [
        (
            'data:\n  uri: "C:\\data\\x"\n',
            "job.yaml:2",
            "unknown escape character 'd'",
            "single quotes around a text with \\ in it",
        ),
        (
            "a: 1\n...\nb: 2\n",
            "job.yaml:3",
            "more after the end of what stands above it",
            "one document: nothing after a line --- or ...",
        ),
        ("# mine\nmodel:nano\ndataset:irds\n", "job.yaml:2", "'model:nano', with no space after the colon", "model: nano"),
        ("\nmodel = nano\n[training]\n", "job.yaml:2", "'model = nano', with = for a colon", "model: nano"),
        ("model\uff1anano\n", "job.yaml:1", "a full-width colon in 'model\uff1anano'", "the ordinary character"),
        ("<!DOCTYPE html>\n<p>Sign in</p>\n", "job.yaml:1", "a web page", "lines of KEY: VALUE"),
        ("a: 1\nb: x\0y\n", "job.yaml:2", "a null character", "text alone"),
        ("a: 1\n".encode("utf-16-be"), "job.yaml", "text in UTF-16", "YAML text in UTF-8"),
        ("a: 1\n".encode("utf-16-le"), "job.yaml", "text in UTF-16", "YAML text in UTF-8"),
    ],
)
def test_what_a_person_wrote_is_told_with_what_to_write_instead(tmp_path, text, where, found, allowed):
    (problem,) = problems_of(text, tmp_path)
    assert (problem.origin, problem.key) == (where, "-")
    assert found in problem.found
    assert allowed in problem.allowed


def test_marks_of_byte_order_are_no_text(tmp_path):
    (tmp_path / "job.yaml").write_bytes("\ufeff\ufeffmodel: nano\n".encode())
    layer, problems = load_file(tmp_path / "job.yaml")
    assert (list(layer), problems) == (["model"], [])


def test_a_missing_file_and_a_folder_are_problems(tmp_path):
    assert load_file(tmp_path / "none.yaml")[1][0].found == "no such file"
    (tmp_path / "quickstart.yaml").write_text("model: nano\n")
    meant = f"the path of a YAML file; did you mean {tmp_path / 'quickstart.yaml'}?"
    assert load_file(tmp_path / "quickstart.yml")[1][0].allowed == meant
    assert load_file(tmp_path)[1][0].found == "a folder"


def test_a_pipe_is_read_where_a_shell_gives_it_and_not_waited_for_elsewhere(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    assert load_file(tmp_path / "pipe.yaml")[1][0].found == "a pipe"
    read, write = os.pipe()
    os.write(write, b"model: nano_e_v3\n")
    os.close(write)
    assert load_file(Path(f"/dev/fd/{read}"))[0]["model"].value == "nano_e_v3"
    os.close(read)


def test_a_name_that_the_system_refuses_is_a_problem(tmp_path):
    assert load_file(tmp_path / ("x" * 5000))[1]


# --- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("training.weight_decy", "training.weight_decay"),
        ("training.grad_clip", "training.gradient_clip"),
        ("model.drop_out", "model.dropout"),
        ("weight_decay", "training.weight_decay"),
        ("optim.nesterov", "training.nesterov"),
        ("hardware.workers", "hardware.num_workers"),
        ("datset", "dataset"),
        ("modle", "model"),
        ("modell", "model"),
        ("models", "model"),
        ("trainig", "training"),
        ("hardwrae", "hardware"),
        ("MODEL", "model"),
        ("Training.LR", "training.lr"),
        ("EPOCHS", "training.epochs"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_name(wrong, right):
    layer, _ = set_layer([f"{wrong}=1"])
    with pytest.raises(ConfigError) as caught:
        resolve([layer], TrainConfig, detect=lambda: ("local", ""))
    (problem,) = caught.value.problems
    assert problem.key == wrong
    assert f"did you mean {right}?" in problem.allowed


def test_an_unknown_key_like_no_other_gets_the_keys_of_its_section():
    layer, _ = set_layer(["checkpoint.zzzzzz=1"])
    with pytest.raises(ConfigError, match=r"known keys: checkpoint\.keep_last, checkpoint\.every_epochs"):
        resolve([layer], TrainConfig, detect=lambda: ("local", ""))


def test_all_mistakes_in_all_layers_are_told_at_once_each_with_origin_and_line(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("training:\n  lr: -1\n  epoch: 3\nmodel:\n  dropout: two\n  strides: [1, 2]\n")
    file, problems = load_file(path, "job.yaml")
    settings_, set_problems = set_layer(["training.lr=0.5", "training.seed=x", "novalue", "env=[1"])
    with pytest.raises(ConfigError) as caught:
        resolve([file, settings_], TrainConfig, [*problems, *set_problems], detect=lambda: ("local", ""))
    assert [(p.origin, p.key) for p in caught.value.problems] == [
        ("--set", "env"),
        ("--set", "novalue"),
        ("--set", "training.seed"),
        ("job.yaml:2", "training.lr"),  # although --set overrides it
        ("job.yaml:3", "training.epoch"),
        ("job.yaml:5", "model.dropout"),
        ("job.yaml:6", "model.strides"),
    ]
    assert len(str(caught.value).splitlines()) == 7


@pytest.mark.parametrize(
    ("text", "line", "key", "before"),
    [
        ("model.dropout: 0.3\ntraining: {dropout: 0.4}\n", 2, "training.dropout", "model.dropout in line 1"),
        (
            "training:\n  num_workers: 1\nhardware:\n  num_workers: 1\n",
            4,
            "hardware.num_workers",
            "training.num_workers in line 2",
        ),
        ("model: nano\n\nmodel.variant: base\n", 3, "model.variant", "model in line 1"),
    ],
)
def test_a_key_set_twice_by_two_of_its_names_is_a_mistake(tmp_path, text, line, key, before):
    (tmp_path / "job.yaml").write_text(text)
    layer, problems = load_file(tmp_path / "job.yaml", "job.yaml")
    assert not problems
    with pytest.raises(ConfigError) as caught:
        resolve([layer], TrainConfig, detect=lambda: ("local", ""))
    (problem,) = caught.value.problems
    assert str(problem) == f"job.yaml:{line}: {key}: found what {before} sets, too; allowed: each key once, by one of its names"


def test_of_several_names_of_a_key_after_set_the_last_one_counts():
    layer, _ = set_layer(["model.dropout=0.1", "training.dropout=0.2", "model.dropout=0.3"])
    assert resolve([layer], TrainConfig, detect=lambda: ("local", "")).config.model.dropout == 0.3


def test_a_section_that_is_no_mapping_is_refused():
    layer, _ = set_layer(["training=fast"])
    with pytest.raises(ConfigError, match="training: found 'fast'; allowed: a mapping of keys to values"):
        resolve([layer], TrainConfig, detect=lambda: ("local", ""))


def test_a_later_assignment_of_the_same_key_wins():
    layer, problems = set_layer(["training.seed=1", "training.seed=2"])
    assert not problems
    assert layer["training.seed"].value == 2


def test_a_mapping_after_set_is_spread_over_its_keys():
    layer, _ = set_layer(["training={seed: 5, lr: 0.3}"])
    assert {key: entry.value for key, entry in layer.items()} == {"training.seed": 5, "training.lr": 0.3}


@pytest.mark.parametrize("word", ["", "=", "=1", "training.lr", " =3"])
def test_a_word_without_key_and_value_is_refused_with_an_example(word):
    layer, problems = set_layer([word])
    assert not layer
    assert "training.gradient_clip=2.0" in problems[0].allowed


def test_a_long_value_is_shortened_in_the_message():
    layer, _ = set_layer([f"training.optimizer={'x' * 1000}"])
    with pytest.raises(ConfigError) as caught:
        resolve([layer], TrainConfig, detect=lambda: ("local", ""))
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("text", "line", "found", "allowed"),
    [
        ("training:\n  epochs: 1\n  epochs: 2\n", 3, "epochs is set twice (first in line 2) in 'epochs: 2'", "each key once"),
        ("training: {lr:0.1}\n", 1, "lr:0.1, with no space after the colon", "lr: 0.1"),
        ("a:b", 1, "'a:b', with no space after the colon", "a: b"),
        ("training:\n  lr:0.1\n  epochs: 3\n", 3, "'lr:0.1' above it, with no space after the colon", "lr: 0.1"),
        (
            "training:\n  epochs: 5\n   lr: 3\n",
            3,
            "3 spaces before 'lr: 3', and 2 in the line above",
            "keys of one mapping below each other, indented alike",
        ),
        (f"a: {'1' * 5000}\n", None, "a whole number of thousands of digits", "a number of a few digits"),
        (
            'a: "\\U00110000"\n',
            None,
            "that is no character",
            r"a character up to \U0010FFFF, or single quotes around a text with \ in it",
        ),
        ("a: &x 1\nb: *x\n", 2, "aliases (*name) are not used here in 'b: *x'", "the values themselves, written out"),
        ("training:\n\tepochs: 1\n", 2, "a tab (YAML indents with spaces) in 'epochs: 1'", "spaces"),
        ("a: 1\n---\nb: 2\n", 2, "another document in '---'", "one document: nothing after a line --- or ..."),
        ("a:\n  b:\u00a01\n  c: 2\n", 2, "a no-break space", "the ordinary character that it stands for"),
        (
            "\u201cmodel\u201d: nano_e_v3\n",
            1,
            "a typographic quote in \u201cmodel\u201d",
            "the ordinary character that it stands for",
        ),
        (
            "a: b: c\n",
            1,
            "': ' a second time in 'a: b: c'",
            "one KEY: VALUE a line, and quotes around a text that holds ': '",
        ),
        (
            "a: [1, 2\nb: 3\n",
            1,
            "a bracket that is not closed, or no comma after an entry, in 'a: [1, 2'",
            "a comma between entries, and a bracket for each that was opened",
        ),
        ("\na: 'x\nb: y\n", 2, 'a quote that is not closed in "a: \'x"', "a second quote like the first"),
        (
            "a: 1\ndataset irds\nb: 2\n",
            2,
            "no colon in 'dataset irds'",
            "lines of KEY: VALUE, with a space after the colon",
        ),
        (
            "a: 1\n- x\n",
            2,
            "an entry of a list among keys in '- x'",
            "either KEY: VALUE or - VALUE in each line of one mapping",
        ),
        (
            "a:\n    b: 5\n  c: 3\n",
            3,
            "a key that is indented like none before it in 'c: 3'",
            "keys of one mapping below each other, indented alike",
        ),
        ('a: "b" c\n', 1, "more after the end of a value in 'a: \"b\" c'", "quotes around the whole of a text"),
        (
            "a: }\n",
            1,
            "a bracket or comma where a value should be in 'a: }'",
            "a value, or quotes around a text of such characters",
        ),
        ("a: >b\n", 1, "> or | before a text in 'a: >b'", "quotes around a text that begins with such a character"),
        ("a: **b**\n", 1, "* or & before a text in 'a: **b**'", "quotes around a text that begins with such a character"),
        ("a: @b\n", 1, "character '@' before a text in 'a: @b'", "quotes around a text that begins with such a character"),
        ('\n[model]\nname = "nano"\n', 2, "'[model]', as INI and TOML files have it", "model: and its keys below it, indented"),
        ("training: {epochs: 1}\ntraining.epochs: 2\n", 2, "the key twice, nested and with dots", "each key once"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_line_and_what_to_write(
    tmp_path: Path, text: str, line: int | None, found: str, allowed: str
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    (problem,) = load_file(path)[1]
    assert problem.origin == (str(path) if line is None else f"{path}:{line}")
    assert found in problem.found
    assert problem.allowed == allowed


def test_a_file_in_utf_16_and_a_text_that_looks_like_a_number_are_told_as_what_they_are(tmp_path):
    (tmp_path / "job.yaml").write_text("name: x", encoding="utf-16")
    (problem,) = load_file(tmp_path / "job.yaml")[1]
    assert problem.found == "text in UTF-16"
    assert problem.allowed.startswith("YAML text in UTF-8; ")
    (tmp_path / "job.yaml").write_text("data: {file: 1e5}\ntraining:\n lr:0.1\n")
    layer, problems = load_file(tmp_path / "job.yaml")
    assert not problems
    with pytest.raises(ConfigError) as caught:
        resolve([layer], TrainConfig, detect=lambda: ("local", ""))
    assert "data.file: found 100000.0; allowed: " in str(caught.value)
    assert "; in quotes: without them it is a number\n" in str(caught.value)
    assert "training: found 'lr:0.1', with no space after the colon; allowed: lr: 0.1" in str(caught.value)
