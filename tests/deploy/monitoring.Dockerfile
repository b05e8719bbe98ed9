# Stand-ins for the images of Prometheus and Alertmanager that compose.yaml names: the programs of this machine.
ARG DEBIAN_IMAGE
FROM ${DEBIAN_IMAGE} AS prometheus
COPY prometheus /usr/bin/prometheus
RUN install -d -o nobody /prometheus
USER 65534
ENTRYPOINT ["prometheus"]

FROM ${DEBIAN_IMAGE} AS alertmanager
COPY prometheus-alertmanager /usr/bin/alertmanager
COPY templates /usr/share/prometheus/alertmanager
RUN install -d -o nobody /alertmanager
USER 65534
ENTRYPOINT ["alertmanager"]
