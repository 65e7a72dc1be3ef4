# Python of Debian 13, with the names that the image that compose.yaml pins has.
ARG BASE
FROM ${BASE}
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && ln -s python3 /usr/bin/python
ENV LANG=C.UTF-8
CMD ["python3"]
