"""The Dockerfile, Apptainer's definition, the dev container and Binder agree, and all of them call the same set-up."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
DEV = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
POST_BUILD = (ROOT / ".binder" / "postBuild").read_text()


def stages():
    """The stages of the Dockerfile in order: name -> [(instruction, its arguments)], that of FROM first."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    found, name = {}, None
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        instruction, arguments = line.split(maxsplit=1)
        assert re.fullmatch("FROM|RUN|WORKDIR|USER|ARG|COPY|ENV|EXPOSE|CMD", instruction), line
        if instruction == "FROM":
            name = arguments.partition(" AS ")[2]
            found[name] = []
        found[name].append((instruction, arguments))
    return found


def definition():
    """Apptainer's definition: (its header as a dict, section -> text)."""
    text = re.sub(r"^#.*\n", "", (ROOT / "cluster" / "setup" / "apptainer.def").read_text(), flags=re.M)
    header, *sections = re.split(r"^%", text, flags=re.M)
    return (
        dict(line.split(": ") for line in header.split("\n") if line),
        {name: body for name, _, body in (section.partition("\n") for section in sections)},
    )


def arguments(instruction):
    return [value for steps in stages().values() for name, value in steps if name == instruction]


def installed(script):
    """The packages that a shell script takes from Debian."""
    listed = re.search(r"apt-get install -y --no-install-recommends ([^&\n]+)", script)
    return listed[1].split()


HEADER, SECTIONS = definition()


@pytest.mark.parametrize(
    "script",
    [" ".join(arguments("RUN")), SECTIONS["post"], POST_BUILD, DEV["postCreateCommand"]],
    ids=["Dockerfile", "apptainer.def", ".binder/postBuild", "devcontainer.json"],
)
def test_the_set_up_is_the_course_s_own(script):
    assert len(re.findall(r"\bmake setup\b", script)) == 1
    assert not re.search(r"\b(pip3?|uv|conda|mamba|apk|npm)\s+(\S+\s+)*?install\b", script)


def test_the_container_runs_as_a_user_who_is_not_root():
    machine, course = stages().items()
    assert course[1][0] == ("FROM", machine[0]), "the image is made from the stage that the dev container takes"
    assert arguments("USER") == ["course"]
    assert ("USER", "course") in machine[1], "or the dev container would run as root"
    assert arguments("COPY") == ["--chown=course . ."]
    assert DEV["build"]["target"] == machine[0] and "remoteUser" not in DEV
    assert (ROOT / ".devcontainer" / DEV["build"]["dockerfile"]).resolve() == ROOT / "Dockerfile"


def test_apptainer_is_told_what_docker_is_told():
    (folder,) = arguments("WORKDIR")
    assert (HEADER["Bootstrap"], HEADER["From"]) == ("docker", arguments("FROM")[0].partition(" AS ")[0])
    assert SECTIONS["files"].split() == [".", folder]
    assert f"cd {folder}\n" in SECTIONS["post"]
    assert installed(SECTIONS["post"]) == installed(arguments("RUN")[0])
    assert SECTIONS["arguments"].split() == arguments("ARG")
    chosen = {value.partition("=")[0] for value in arguments("ARG")}
    assert set(re.findall(r"\b([A-Z]+)=\{\{ \1 \}\}", SECTIONS["post"])) == chosen
    exported = [line.split(maxsplit=1)[1] for line in SECTIONS["environment"].split("\n") if line]
    assert exported == arguments("ENV")[0].split()
    command = json.loads(arguments("CMD")[0])
    command.remove("--ip=0.0.0.0")  # Apptainer shares the machine's network, and Jupyter listens on 127.0.0.1 there.
    assert shlex.split(SECTIONS["runscript"]) == ["exec", *command]


def test_binder_has_a_python_that_the_project_takes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = re.fullmatch(r"python-(3\.\d+)\n", (ROOT / ".binder" / "runtime.txt").read_text())[1]
    assert SpecifierSet(project["requires-python"]).contains(f"{version}.1")


def test_binder_can_run_its_script():
    assert (ROOT / ".binder" / "postBuild").stat().st_mode & 0o111
    assert POST_BUILD.startswith("#!")


def test_images_leave_out_what_git_leaves_out():
    def patterns(name):
        lines = (ROOT / name).read_text().splitlines()
        return {line.removeprefix("**/").strip("/") for line in lines if line and not line.startswith("#")}

    assert patterns(".dockerignore") == patterns(".gitignore")
