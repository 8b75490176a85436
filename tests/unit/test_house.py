"""What no linter checks of the layout: light imports, small files and folders, type hints, and what texts say of it."""

import ast
import re
import resource
import subprocess
import sys

from helpers import ROOT

import pytest
import yaml

FILES = sorted(path for room in ("helpers", "cluster") for path in (ROOT / room).rglob("*.py"))
# ipcluster and Jupyter read these folders' files, which are no modules; apps.py runs in Balsam's environment.
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__").removesuffix(".__main__")
    for path in FILES
    if path.parent.name not in ("profile_mpi", "setup") and path.name != "apps.py"
]


def run(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_importing_helpers_imports_a_few_modules_of_the_standard_library():
    done = run("import sys; before = set(sys.modules); import helpers; print(*set(sys.modules) - before)")
    assert done.returncode == 0 and done.stderr == ""
    new = done.stdout.split()
    assert {name.partition(".")[0] for name in new} - set(sys.stdlib_module_names) == {"helpers"}
    assert len(new) < 60


def test_importing_helpers_takes_less_than_a_tenth_of_a_second():
    """Processor time, and the least of several: other processes on the machine can only add to it."""

    def least(code):
        seconds = []
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            assert run(code).returncode == 0
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(seconds)

    assert least("import helpers") - least("pass") < 0.1


def first_imports():
    """{module that is imported first: modules that are imported after it}.

    To import a module of a package is to import the package first, so the modules of one share a process. Otherwise
    each of them would import TensorFlow or nbconvert anew.
    """
    found = {}
    for module in sorted(set(MODULES)):
        package = module.rpartition(".")[0]
        first = package if "." in package else module
        found.setdefault(first, []).append(module)
    return found


FIRST = first_imports()


@pytest.mark.parametrize("first", [name for name in FIRST if name.startswith("cluster")])
def test_a_module_of_cluster_can_be_imported_first_and_says_nothing_and_needs_no_tensorflow(first):
    done = run(f"import {', '.join([first, *FIRST[first]])}, sys; sys.exit('tensorflow' in sys.modules)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_module_of_helpers_can_be_imported_first_and_says_nothing():
    """One process imports TensorFlow, which takes long, and a copy of it for each module imports that module first.

    There TensorFlow would be quiet anyway, so each import of it has to come after that of helpers.keras2.
    """
    names = [[first, *modules] for first, modules in FIRST.items() if first.startswith("helpers")]
    assert len(names) > 15
    done = run(f"""
import builtins, importlib, os, sys, traceback
import helpers.keras2, matplotlib.pyplot, scipy.stats, tensorflow_probability
del sys.modules["helpers.keras2"], helpers.keras2

def in_order(name, *more, original=builtins.__import__):
    if name.partition(".")[0] in ("tensorflow", "tf_keras", "tensorflow_probability"):
        assert "helpers.keras2" in sys.modules, name + " before helpers.keras2"
    return original(name, *more)

builtins.__import__ = in_order
failed = []
for names in {names}:
    child = os.fork()
    if not child:
        try:
            for name in names:
                importlib.import_module(name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    failed += names[:1] * bool(os.waitpid(child, 0)[1])
sys.exit(" ".join(failed) or 0)
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_has_fewer_than_250_lines(path):
    assert len(path.read_text().splitlines()) < 250


def test_a_folder_of_helpers_has_at_most_16_files():
    for folder in {path.parent for path in FILES if path.is_relative_to(ROOT / "helpers")}:
        files = [path.name for path in folder.iterdir() if path.is_file()]
        assert len(files) <= 16, f"{folder.relative_to(ROOT)}: {sorted(files)}"


def public_functions(body, prefix=""):
    """Yield (name, node) for functions and methods that a reader may call. Nested functions are private."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if not node.name.startswith("_") or node.name in ("__init__", "__call__"):
                yield prefix + node.name, node


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_functions_have_type_hints(path):
    lacking = []
    for name, node in public_functions(ast.parse(path.read_text()).body):
        given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        first = (
            given[:1] if "." in name and not any(ast.unparse(d) == "staticmethod" for d in node.decorator_list) else []
        )
        given = [a for a in given + [node.args.vararg, node.args.kwarg] if a and a not in first]
        if not node.returns and not name.endswith("__init__") or not all(a.annotation for a in given):
            lacking.append(name)
    assert not lacking


def test_the_files_that_contributing_names_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r"`((?:helpers|cluster|tests|notebooks)/[^`]*)`", text)
    named = [re.sub(r"[^/]*(NAME|NN).*", "", path) for path in named]  # of a file that is to be made, its folder
    assert len(named) > 15
    for path in named:
        assert (ROOT / path).exists(), path


def test_the_changelog_has_the_version_of_the_project_and_what_came_after_it():
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:2] == ["Unreleased", version]


def test_the_citation_has_the_facts_of_the_other_documents_and_names_nobody_else():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    required = {"cff-version": "1.2.0", "type": "software", "license": "MIT"}
    assert required.items() <= citation.items() and citation["message"]
    readme, changelog = ((ROOT / name).read_text() for name in ("README.md", "CHANGELOG.md"))
    assert citation["title"] == readme.splitlines()[0].removeprefix("# ")
    assert f"## {citation['version']} - {citation['date-released']}\n" in changelog
    # The project has no named authors. Those of its references are in README too.
    assert [list(author) for author in citation["authors"]] == [["name"]]
    article, tutorial = citation["references"]
    people = ", ".join(f"{one['given-names']} {one['family-names']}" for one in article["authors"])
    assert f"- {people}. *{article['title']}.* {article['year']}." in readme
    assert article["url"].rpartition("/")[2] in readme and f"<{tutorial['repository-code']}>" in readme


def test_the_citation_has_the_version_of_the_project():
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


def test_workflows_name_actions_by_a_commit():
    """A tag can be moved to other code, a commit cannot."""
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for action in re.findall(r"uses: (.*)", path.read_text()):
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", action), action
