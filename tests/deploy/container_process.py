"""A container as a process: ``python -m tests.deploy.container_process IMAGE ARGUMENT…``.

It runs the image as Kubernetes does (no root, read-only root file system, no capabilities, a writable ``/tmp``) on the
network of this machine, prints its log, passes SIGTERM on, and ends with its exit code.
"""

import os
import signal
import sys
import threading

import docker

STOP_SECONDS = 30
LABEL = "reelhouse.test"


def main() -> int:
    image, *arguments = sys.argv[1:]
    prefix = image.partition("/")[2].partition(":")[0].upper() + "_"
    client = docker.from_env()
    container = client.containers.run(
        image,
        arguments,
        detach=True,
        environment={name: value for name, value in os.environ.items() if name.startswith(prefix)},
        network_mode="host",
        read_only=True,
        tmpfs={"/tmp": "rw,noexec,size=512m,mode=1777"},
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        labels=[LABEL],
    )
    stopping = threading.Thread(target=container.stop, kwargs={"timeout": STOP_SECONDS})
    signal.signal(signal.SIGTERM, lambda *_: stopping.start())
    for line in container.logs(stream=True, follow=True):
        sys.stdout.buffer.write(line)
        sys.stdout.flush()
    code = int(container.wait()["StatusCode"])
    container.remove(force=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
