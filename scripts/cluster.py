"""A Kubernetes control plane on loopback, for as long as it is asked: etcd, the API server, and the controller that aggregates ClusterRoles.

The binaries are those of scripts/kube.sh; nothing else has to be installed. Everything is in a temporary directory and ends with `close`.
"""

import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import http.client
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Generous: a loaded machine is slow, and a hung one has to end.
START_SECONDS = 120
BINARIES = ("etcd", "kube-apiserver", "kube-controller-manager")


class ClusterError(Exception):
    """The control plane cannot be had; the text says why and what to do."""


def binaries():
    """The directory of the binaries, built if need be."""
    build = subprocess.Popen([ROOT / "scripts" / "kube.sh"], stdout=subprocess.PIPE, text=True)
    last = ""
    for line in build.stdout:
        last = line.rstrip("\n")
        print(last, flush=True)
    if build.wait() != 0:
        raise ClusterError("scripts/kube.sh failed: see above")
    directory = Path(last)
    missing = [name for name in BINARIES if not os.access(directory / name, os.X_OK)]
    if missing:
        raise ClusterError(f"{directory} has no {', '.join(missing)}: unset KUBEBUILDER_ASSETS, and scripts/kube.sh builds it")
    return directory


def free_ports(count):
    # All are held until all are known, so that no two are the same.
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


class Cluster:
    def __init__(self, directory):
        self.directory = directory
        self.home = Path(tempfile.mkdtemp(prefix="tiergate-cluster-"))
        self.processes = {}
        self.connection = None
        self.token = secrets.token_hex(16)

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def start(self):
        etcd, peer, self.port = free_ports(3)
        self.run("etcd", [
            f"--data-dir={self.home}/etcd", "--unsafe-no-fsync", "--log-level=warn",
            f"--listen-client-urls=http://127.0.0.1:{etcd}", f"--advertise-client-urls=http://127.0.0.1:{etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}", f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}",
        ])
        certificates = self.home / "certificates"
        certificates.mkdir()
        tokens = self.home / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f'{self.token},admin,admin,"system:masters"\n')
        # The API server makes its own key pair before it reads this file, so one key will do.
        key = certificates / "apiserver.key"
        self.run("kube-apiserver", [
            f"--etcd-servers=http://127.0.0.1:{etcd}", "--bind-address=127.0.0.1", f"--secure-port={self.port}",
            f"--cert-dir={certificates}", f"--token-auth-file={tokens}", "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}", "--service-cluster-ip-range=10.0.0.0/24",
            "--endpoint-reconciler-type=none", "--disable-admission-plugins=ServiceAccount",
        ])
        self.wait_for("the API server", self.is_ready)
        kubeconfig = self.home / "kubeconfig"
        kubeconfig.touch(mode=0o600)
        kubeconfig.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {
                "server": f"https://127.0.0.1:{self.port}", "certificate-authority": f"{certificates}/apiserver.crt"}}],
            "users": [{"name": "it", "user": {"token": self.token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        }))
        self.run("kube-controller-manager", [
            f"--kubeconfig={kubeconfig}", "--controllers=clusterrole-aggregation-controller", "--leader-elect=false",
            "--secure-port=0", f"--cert-dir={certificates}",
        ])

    def run(self, name, arguments):
        log = open(self.home / f"{name}.log", "wb")
        # A session of its own: Ctrl-C is for this script, which then ends them in order.
        self.processes[name] = subprocess.Popen(
            [self.directory / name, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        log.close()

    def wait_for(self, what, done):
        deadline = time.monotonic() + START_SECONDS
        while not done():
            self.check()
            if time.monotonic() > deadline:
                raise ClusterError(f"{what} took longer than {START_SECONDS} s\n{self.logs()}")
            time.sleep(0.05)

    def check(self):
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise ClusterError(f"{name} ended with status {process.returncode}\n{self.logs()}")

    def logs(self):
        tails = []
        for name in self.processes:
            lines = (self.home / f"{name}.log").read_text(errors="replace").splitlines()
            tails += [f"--- {name}", *lines[-15:]]
        return "\n".join(tails)

    def is_ready(self):
        try:
            status, _ = self.call("GET", "/readyz")
        except (OSError, http.client.HTTPException):
            return False
        return status == 200

    def call(self, method, path, body=None):
        """One request, with an object or a text of YAML; the status and the decoded answer."""
        if self.connection is None:
            # The certificate was made a moment ago, on this machine.
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self.connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=context)
        try:
            is_yaml = isinstance(body, str)
            headers = {"Authorization": f"Bearer {self.token}", "Content-Type": f"application/{'yaml' if is_yaml else 'json'}"}
            text = body if is_yaml or body is None else json.dumps(body)
            self.connection.request(method, path, text, headers)
            answer = self.connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            self.connection.close()
            self.connection = None
            raise
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text.decode(errors="replace")

    def close(self):
        if self.connection is not None:
            self.connection.close()
        # The last one started first: nothing is left to complain about what it needs.
        for process in reversed(self.processes.values()):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.home, ignore_errors=True)
