# SPDX-License-Identifier: Apache-2.0
"""What the documents promise, held against the code.

UPDATE_DOCS=1 python -m pytest test/project/test_docs.py   writes docs/parameters.md's table and
                                                   config/depthforge.yaml
"""

import argparse
import ast
import dataclasses
import json
import os
import re
import textwrap

import pytest
from paths import ROOT
from test_imports import ORDER

from depthforge_ros.cli import VERBS
from depthforge_ros.frame import DepthKind
from depthforge_ros.ros.images import INPUT_ENCODINGS, BadImage
from depthforge_ros.ros.node import stamp_check, statistics
from depthforge_ros.ros.node.parameter_descriptors import EFFECT_TEXTS, declarations
from depthforge_ros.ros.node.parameters import LATCHED, OUTPUTS, Parameters
from depthforge_ros.variant import load_variant, variant_names

README = ROOT / "README.md"
PARAMETERS = ROOT / "docs" / "parameters.md"
DOCUMENTS = sorted([README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
BEGIN, END = "<!-- parameters: begin -->\n", "<!-- parameters: end -->"


def table_rows(text, heading):
    """Cells of the table whose first column is called `heading`, without its two head lines."""
    lines = text.split(f"| {heading} |", 1)[1].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def parameter_table():
    lines = ["| parameter | default | allowed | acts | meaning |", "|---|---|---|---|---|"]
    for name, default, described in declarations():
        meaning, acts = next(
            (described.description.removesuffix(f" {text}"), acts.value)
            for acts, text in EFFECT_TEXTS.items()
            if described.description.endswith(text)
        )
        ranges = [*described.integer_range, *described.floating_point_range]
        allowed = described.additional_constraints.removeprefix("One of ").rstrip(".")
        if ranges:
            allowed = f"{ranges[0].from_value:g}..{ranges[0].to_value:g}"
        shown = json.dumps(default)
        lines.append(f"| `{name}` | `{shown}` | {allowed} | {acts} | {meaning} |")
    return "\n".join(lines) + "\n"


def test_the_parameter_table_is_what_is_declared():
    text = PARAMETERS.read_text("utf-8")
    before, rest = text.split(BEGIN)
    written, after = rest.split(END)
    if os.environ.get("UPDATE_DOCS"):
        PARAMETERS.write_text(before + BEGIN + parameter_table() + END + after, "utf-8")
        written = parameter_table()
    assert written == parameter_table(), "run with UPDATE_DOCS=1"


PARAMETER_FILE = ROOT / "config" / "depthforge.yaml"
PARAMETER_FILE_HEAD = """\
# SPDX-License-Identifier: Apache-2.0
# Every parameter of the node with its default. Copy this file, keep what you change.
# live: acts at the next frame. configure: set it while the node is unconfigured. startup: once.
/**:
  ros__parameters:
"""


def parameter_file():
    """config/depthforge.yaml as the declarations have it."""
    parts = []
    for field in dataclasses.fields(Parameters):
        allowed = field.metadata
        said = f"{field.name} ({allowed['effect'].value}): {allowed['description']}"
        if allowed["low"] is not None:
            said += f" {allowed['low']:g}..{allowed['high']:g}."
        said = textwrap.fill(
            said,
            100,
            initial_indent="    # ",
            subsequent_indent="    # ",
            break_on_hyphens=False,
            break_long_words=False,
        )
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        parts.append(f"{said}\n    {field.name}: {json.dumps(default)}\n")
    return PARAMETER_FILE_HEAD + "\n".join(parts)


def test_the_parameter_file_is_what_is_declared():
    if os.environ.get("UPDATE_DOCS"):
        PARAMETER_FILE.write_text(parameter_file(), "utf-8")
    assert PARAMETER_FILE.read_text("utf-8") == parameter_file(), "run with UPDATE_DOCS=1"


def test_the_readme_is_short():
    assert len(README.read_text("utf-8").splitlines()) <= 200


def test_the_topics_are_the_nodes():
    rows = table_rows(README.read_text("utf-8"), "topic")
    documented = {row[0].strip("`").removeprefix("~/") for row in rows if "(in)" not in row[0]}
    folder = ROOT / "depthforge_ros" / "ros" / "node"
    names = ("outputs.py", "spatial_outputs.py")
    sources = [(folder / name).read_text("utf-8") for name in names]
    words = {
        node.value
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert documented - {"/diagnostics"} <= words
    published = {*OUTPUTS, *LATCHED, "/diagnostics"}
    assert documented == published


def test_the_input_encodings_are_those_that_are_taken():
    rows = table_rows(README.read_text("utf-8"), "topic")
    assert tuple(rows[0][2].split()) == INPUT_ENCODINGS


def test_the_variants_and_their_terms_are_those_that_ship():
    rows = {row[0].strip("`"): row for row in table_rows(README.read_text("utf-8"), "variant")}
    assert sorted(rows) == variant_names()
    for name, row in rows.items():
        variant = load_variant(name)
        free = {size.licence for size in variant.encoders.values()} == {"Apache-2.0"}
        assert ("not for commercial use" in row[2]) != free
        metric = variant.depth_head.kind is DepthKind.METRIC
        assert row[3] == ("metres" if metric else "relative")


def test_the_commands_are_all_there_are():
    rows = table_rows(README.read_text("utf-8"), "command")
    words = [row[0].strip("`").split() for row in rows]
    assert {first for first, *_ in words} == {"depthforge"}
    assert [verb for _, verb, *_ in words] == list(VERBS)


def words_of(name):
    """Words of all strings in a module of ros/node/."""
    tree = ast.parse((ROOT / "depthforge_ros" / "ros" / "node" / name).read_text("utf-8"))
    texts = [str(n.value) for n in ast.walk(tree) if isinstance(n, ast.Constant)]
    return set(re.findall(r"[a-z_]+", " ".join(texts)))


def test_every_cause_of_a_drop_is_explained():
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    causes = {statistics.REPLACED, statistics.RATE_LIMIT, statistics.NO_LISTENER}
    causes |= {statistics.INACTIVE, statistics.INFERENCE_ERROR}
    causes |= {stamp_check.STALE, stamp_check.FUTURE, stamp_check.ZERO_STAMP, stamp_check.BACKWARDS}
    listed = re.search(r"Causes: ([a-z_,\s]+)\.", BadImage.__doc__)[1]
    causes |= {cause.strip() for cause in listed.split(",")}
    assert len(causes) >= 19
    assert causes <= set(re.findall(r"`([a-z_]+)`", text))


def test_the_messages_that_are_explained_are_in_the_words_of_the_node():
    rows = table_rows((ROOT / "docs" / "operations.md").read_text("utf-8"), "message")
    assert len(rows) >= 14
    known = words_of("diagnostics.py") | words_of("statistics.py") | words_of("node.py")
    for row in rows:
        for message in re.findall(r"`([^`]+)`", row[0]):
            assert set(re.findall(r"[a-z_]+", message)) <= known, message


def test_the_order_of_imports_is_the_one_that_is_kept():
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    written = re.search(r"lines above its own:\n\n```\n(.*?)```", text, re.S)[1]
    assert [tuple(line.split(", ")) for line in written.splitlines()] == list(ORDER[1:])


def test_the_parts_of_the_package_are_explained():
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    parts = {path for path in (ROOT / "depthforge_ros").iterdir() if path.name[0] not in "._"}
    names = {path.name + "/" * path.is_dir() for path in parts}
    assert names <= set(re.findall(r"`([a-z/._]+)`", text))


def test_the_readme_leads_to_every_document():
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text("utf-8"))
    assert {path.relative_to(ROOT).as_posix() for path in DOCUMENTS} - {"README.md"} <= set(links)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_document_is_written(document):
    text = document.read_text("utf-8")
    assert text.startswith("# ")
    assert len(text.splitlines()) > 2
    # Comments are for what this file writes: anything else is a place that was left empty.
    assert set(re.findall(r"<!--.*?-->", text, re.S)) <= {BEGIN.strip(), END.strip()}


def code_lines():
    for document in DOCUMENTS:
        text = document.read_text("utf-8")
        for block in re.findall(r"```\w*\n(.*?)```", text, re.S):
            for line in block.splitlines():
                yield pytest.param(line.strip(), id=f"{document.name}: {line.strip()[:60]}")
        for code in re.findall(r"`([^`\n]+)`", text):
            yield pytest.param(code.strip(), id=f"{document.name}: {code.strip()[:60]}")


COMMANDS = [
    entry
    for entry in code_lines()
    if re.match(r"(make|depthforge|ros2 launch|ros2 param) ", entry.values[0])
]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_documented_command_exists(line):
    words = line.split()
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text("utf-8")
        for word in words[1:]:
            name, _, value = word.partition("=")
            expected = rf"^{name} \?=" if value else rf"^{name}:"
            assert re.search(expected, makefile, re.M), f"the Makefile has no {word}"
    elif words[0] == "depthforge" and words[1] != "VERB":
        parser = argparse.ArgumentParser()
        VERBS[words[1]].load().configure(parser)
        actions = list(parser._actions)
        for action in parser._actions:
            # A verb that works alone may be followed by its options in place of a word.
            word = words[2] if len(words) > 2 else "-"
            if isinstance(action, argparse._SubParsersAction) and not word.startswith("-"):
                actions += action.choices[word]._actions
        known = {option for action in actions for option in action.option_strings}
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= known
    elif words[:2] == ["ros2", "launch"]:
        launched = [words[3], "segment.launch.py"]
        sources = [(ROOT / "launch" / name).read_text("utf-8") for name in launched]
        for word in words[4:]:
            assert any(f'("{word.split(":=")[0]}",' in source for source in sources), word
    elif words[:3] in (["ros2", "param", "set"], ["ros2", "param", "describe"]):
        assert words[4] in {name for name, _, _ in declarations()}


def test_there_are_commands_to_check():
    assert len(COMMANDS) >= 12


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text("utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_every_named_script_exists():
    texts = [path.read_text("utf-8") for path in (*DOCUMENTS, ROOT / "models/checkpoints/nano.md")]
    scripts = {name for text in texts for name in re.findall(r"\bdocs/[\w/]+\.py", text)}
    assert len(scripts) >= 4
    assert {name for name in scripts if not (ROOT / name).is_file()} == set()


def test_every_fault_names_tests_that_exist():
    rows = table_rows((ROOT / "docs" / "faults.md").read_text("utf-8"), "fault")
    for *_, held_by in rows:
        files = re.findall(r"\b(test_\w+\.py)", held_by)
        assert files
        paths = [path for name in files for path in (ROOT / "test").rglob(name)]
        assert len(paths) == len(files)
        sources = "".join(path.read_text("utf-8") for path in paths)
        for name in re.findall(r"`(test_\w+)`", held_by):
            assert f"def {name}(" in sources, name
