# The course in a container, run by a user who is not root:
#
#     docker build -t bnn-course .
#     docker run --rm --init --shm-size=1g -p 127.0.0.1:8888:8888 bnn-course
#
# HOROVOD, MPI and GPU choose as in `make setup`: docker build --build-arg HOROVOD=0 -t bnn-course .
# cluster/setup/apptainer.def says the same for Apptainer.
FROM debian:trixie-slim AS machine
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates g++ git make patch python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* && useradd --create-home course && install -d -o course /opt/bnn-course
WORKDIR /opt/bnn-course
USER course

FROM machine
ARG HOROVOD=1
ARG MPI=wheel
ARG GPU=0
COPY --chown=course . .
RUN make setup && rm -rf ~/.cache/uv
ENV PATH=/opt/bnn-course/.venv/bin:$PATH JUPYTER_CONFIG_PATH=cluster/setup
EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--no-browser"]
