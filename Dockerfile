# The HTTP server (docs/serving.md). For the CPU:
#   docker build -t vila-hd .
# For NVIDIA GPUs (the CUDA libraries come with PyPI's torch):
#   docker build -t vila-hd:gpu --build-arg TORCH_INDEX= .
FROM python:3.12-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 HF_HOME=/cache

WORKDIR /src
COPY constraints.txt setup.py pyproject.toml README.md LICENSE ./
COPY vila_hd ./vila_hd
COPY llava_compat ./llava_compat
RUN pip install ${TORCH_INDEX:+--extra-index-url $TORCH_INDEX} -c constraints.txt ".[serve,json]" \
    && useradd --create-home --uid 10001 vila \
    && mkdir /cache && chown vila /cache

USER vila
WORKDIR /home/vila
VOLUME /cache
EXPOSE 8000
# Weights are large: loading may take minutes.
HEALTHCHECK --interval=15s --timeout=5s --start-period=300s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["vila-hd", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--model", "nano"]
