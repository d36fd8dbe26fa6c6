# The image of LymphInfer. From the repository's root:
#   docker build -t lymphinfer:0.2.0 .                                      for CPUs
#   docker build -t lymphinfer:0.2.0-cuda --build-arg TORCH=cu128 .         for NVIDIA GPUs
# The CUDA libraries come with torch: the host needs NVIDIA's driver and container toolkit, no more.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
ARG TORCH=none
ARG EXTRAS=anndata,cluster,czi,remote,report,zarr
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY lymphinfer lymphinfer
COPY weights weights
COPY packaging/container/install.sh /usr/local/bin/install.sh
RUN install.sh /src /opt/lymphinfer "${EXTRAS}" "${TORCH}"

FROM python:${PYTHON}-slim-bookworm
LABEL org.opencontainers.image.title="LymphInfer" \
      org.opencontainers.image.description="Lymphocyte markers from plain H&E whole-slide images" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/lymphinfer /opt/lymphinfer
# A home that any user id may write to: `docker run --user` takes that of the caller.
RUN mkdir -m 1777 /home/lymphinfer
ENV PATH=/opt/lymphinfer/bin:$PATH \
    HOME=/home/lymphinfer \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["lymphinfer"]
CMD ["--help"]
