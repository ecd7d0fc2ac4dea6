# The gateway, and the emulator of Speech-to-Text, as one image: `python -m app` or `python -m app.emulator`.
# EXTRA=gateway leaves the emulator's packages out, for Google alone.
FROM python:3.11-slim-bookworm AS build
ARG EXTRA=emulator
WORKDIR /build
RUN python -m venv /opt/venv
COPY requirements/ requirements/
RUN /opt/venv/bin/pip install --no-cache-dir --require-hashes -r requirements/${EXTRA}.txt
COPY pyproject.toml README.md LICENSE ./
COPY app/ app/
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
    && /opt/venv/bin/pip uninstall -y uv hatchling editables pip

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin gateway
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 GATEWAY_HOST=0.0.0.0
USER gateway
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
CMD ["python", "-m", "app"]
