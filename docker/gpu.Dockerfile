# For NVIDIA GPUs, from the root of the repository: docker build -f docker/gpu.Dockerfile -t kbd:gpu .
# There is no image of TensorFlow 2.15.1. Of this one CUDA, cuDNN and Python are used; TensorFlow is that of constraints.txt.
FROM tensorflow/tensorflow:2.15.0.post1-gpu
WORKDIR /src
COPY . .
RUN docker/install.sh /opt/kbd \
    && rm -rf /src/* \
    && useradd --create-home --uid 1000 kbd \
    # Also for those who come with another number: docker run --user
    && mkdir /work \
    && chmod 0777 /home/kbd /work
ENV HOME=/home/kbd PATH=/opt/kbd/bin:$PATH
USER 1000
WORKDIR /work
HEALTHCHECK --interval=5m --timeout=1m CMD ["kbd", "--version"]
ENTRYPOINT ["kbd"]
CMD ["--help"]
