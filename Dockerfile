# One image to serve and to train:
#   docker build --tag urk .                                  on a CPU
#   docker build --tag urk --build-arg JAX="jax[cuda12]" .    on an NVIDIA GPU; "jax[tpu]" on a TPU
#   docker run --publish 8000:8000 --volume "$PWD/runs:/work/runs" urk
FROM python:3.12-slim

ARG JAX="jax"
COPY . /source
RUN pip install --no-cache-dir "$JAX" "/source[serve,audio,video,points,boxes,gcs,hub]" && rm -rf /source

# Compiled programs; a volume here lets the next container start in seconds.
ENV XDG_CACHE_HOME=/cache
RUN useradd --uid 10001 --create-home unireplknet && mkdir --mode=1777 /work /cache
USER unireplknet
WORKDIR /work

EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["unireplknet"]
CMD ["serve", "runs/served", "--host", "0.0.0.0"]
