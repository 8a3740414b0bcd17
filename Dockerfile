# make report in a container:  docker build -t pt4al . && docker run -v "$PWD/_build:/pt4al/_build" pt4al
FROM python:3.12-slim AS tools
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /pt4al

FROM tools
# CPU=1 takes a torch without CUDA; the index that offers one is named by PIP_EXTRA_INDEX_URL
ARG CPU PIP_INDEX_URL PIP_EXTRA_INDEX_URL
# results tell the commit; git's history is not copied
ARG PT4AL_COMMIT
ENV PT4AL_COMMIT=$PT4AL_COMMIT
COPY Makefile pyproject.toml requirements.txt README.md LICENSE ./
COPY pt4al/__init__.py pt4al/
RUN make setup CPU=$CPU
COPY . .
RUN touch .venv/.ready
CMD ["make", "report"]
