# An image with roi-progressive and its command, for NVIDIA's GPUs and for the CPU:
#
#     docker build --tag roi-progressive .
#     docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD":/work roi-progressive demo
#     docker run --rm --gpus all --user "$(id -u):$(id -g)" --volume "$PWD":/work roi-progressive demo
#
# It holds the torch that pip takes for Linux, which brings CUDA and runs on the CPU too. TORCH_INDEX is the address of
# another index of torch's wheels, as torch's installation page prints it behind `--index-url`: that of `cpu` makes a
# much smaller image, that of another CUDA version fits an older driver.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim
ARG TORCH_INDEX=

# OpenMP's library, which torch loads.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*

# torch first and on its own: a change of our code does not fetch it again.
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision

COPY . /src
RUN pip install --no-cache-dir "/src[medical]" && rm -rf /src

# Matplotlib's cache, for a user without a home.
ENV MPLBACKEND=Agg MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /work
ENTRYPOINT ["roi-progressive"]
CMD ["--help"]
