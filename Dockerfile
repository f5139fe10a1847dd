# The core: reads datasets, drives and dreams.
#   docker build -t carracing . && docker run -v "$PWD/drive:/out" carracing
# With more: docker build --build-arg EXTRAS=build,train -t carracing .
FROM --platform=linux/amd64 python:3.11-slim
ARG EXTRAS=
WORKDIR /carracing
COPY . .
ENV PIP_CONSTRAINT=/carracing/constraints.txt
RUN pip install --no-cache-dir -e ".${EXTRAS:+[$EXTRAS]}"
CMD ["python", "-m", "tools.drive", "--output_dir=/out"]
