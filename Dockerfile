FROM python:3.11-slim

# git is for `rag ingest git+https://...`
RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/*
WORKDIR /app
# What an image should be able to do; m3e brings torch, 200 MB for a CPU.
ARG EXTRAS=milvus,ocr,parquet,postgres,s3
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY rag rag
COPY api api
RUN pip install --no-cache-dir --constraint constraints.txt ".[$EXTRAS]" \
    && useradd --create-home --uid 1000 rag \
    && mkdir -p /data/indexes /data/cache \
    && chown -R rag /data
USER rag
ENV RAG_INDEXES=/data/indexes RAG_CACHE_DIR=/data/cache RAG_HOST=0.0.0.0
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"
CMD ["rag", "serve"]
