# The gateway, and the emulator of Speech-to-Text, as one image: `python -m app` or `python -m app.emulator`.
# EXTRA=gateway leaves the emulator's packages out, for Google alone.
# This project's tests have no container engine: they run slim.py over a tree of files, and have never built the image.
FROM python:3.11-slim-bookworm AS build
ARG EXTRA=emulator
WORKDIR /build
RUN python -m venv /opt/venv
COPY requirements/ requirements/
RUN /opt/venv/bin/pip install --no-cache-dir --require-hashes -r requirements/${EXTRA}.txt
COPY pyproject.toml README.md LICENSE ./
COPY app/ app/
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
    && /opt/venv/bin/pip uninstall -y uv hatchling editables setuptools pip

# What runs: Python, its libraries and the service. No shell is left after the last step, so it needs none.
FROM python:3.11-slim-bookworm AS slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin gateway
COPY --from=build /opt/venv /opt/venv
COPY deploy/image/slim.py /slim.py
RUN ["/usr/local/bin/python", "/slim.py"]

# One layer: what was taken out is in none below it.
FROM scratch
COPY --from=slim / /
ENV PATH=/opt/venv/bin LANG=C.UTF-8 PYTHONUNBUFFERED=1 PYTHONSAFEPATH=1 GATEWAY_HOST=0.0.0.0
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
CMD ["python", "-m", "app"]
