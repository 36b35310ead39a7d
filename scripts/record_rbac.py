#!/usr/bin/env python3
"""Records what a real kube-apiserver answers to the requests of rbac_worlds.py, into tests/data/rbac.json. `make rbac-cases` runs it.

Each world is applied to a cluster without any other RBAC object, and asked about when nothing changes any more. What the API server does
not take is recorded with its reason. The same worlds give the same file.
"""

import argparse
import json
import re
import signal
import sys
import time
from pathlib import Path

from cluster import ROOT, Cluster, ClusterError, binaries
from rbac_worlds import worlds

RBAC = "/apis/rbac.authorization.k8s.io/v1"
KINDS = {"Role": "roles", "ClusterRole": "clusterroles", "RoleBinding": "rolebindings", "ClusterRoleBinding": "clusterrolebindings"}
NAMESPACES = ["default", "llm", "model-serving", "other", "team"]
# How long rules and answers have to stay as they are: without aggregation only the API server's own watches have to catch up, a
# matter of milliseconds; the controller may be some way behind.
QUIET = {False: 0.25, True: 1.0}
LATEST = 60


class Recorder:
    def __init__(self, cluster):
        self.cluster = cluster

    def call(self, method, path, body=None, expected=(200, 201)):
        self.cluster.check()
        status, answer = self.cluster.call(method, path, body)
        if status not in expected:
            raise ClusterError(f"{method} {path}: {status} {answer}")
        return answer

    def prepare(self):
        """Takes away what every cluster has: selectors would match it, and its rules would answer."""
        for namespace in NAMESPACES:
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
            self.call("POST", "/api/v1/namespaces", body, expected=(201, 409))
        self.clear(["kube-system", "kube-public", *NAMESPACES])
        # A controller that is not there yet looks like one that has settled.
        source = {"metadata": {"name": "source", "labels": {"probe": "true"}}, "rules": [{"apiGroups": ["a"], "resources": ["b"], "verbs": ["c"]}]}
        probe = {"metadata": {"name": "probe"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"probe": "true"}}]}}
        for body in (source, probe):
            self.call("POST", f"{RBAC}/clusterroles", body)
        self.cluster.wait_for("aggregation", lambda: self.call("GET", f"{RBAC}/clusterroles/probe").get("rules"))

    def clear(self, namespaces):
        for namespace in namespaces:
            for kind in ("rolebindings", "roles"):
                self.call("DELETE", f"{RBAC}/namespaces/{namespace}/{kind}")
        self.call("DELETE", f"{RBAC}/clusterrolebindings")
        # The controller writes a role that it has not seen go, and that makes it anew.
        deadline, empty_since = time.monotonic() + LATEST, None
        while empty_since is None or time.monotonic() - empty_since < QUIET[False]:
            if self.call("GET", f"{RBAC}/clusterroles")["items"]:
                self.call("DELETE", f"{RBAC}/clusterroles")
                empty_since = None
            elif empty_since is None:
                empty_since = time.monotonic()
            if time.monotonic() > deadline:
                raise ClusterError(f"ClusterRoles were still coming back after {LATEST} s")
            time.sleep(0.02)

    def apply(self, manifest, replace=False):
        """The reason why the API server does not take an object, or nothing."""
        metadata = manifest["metadata"]
        scope = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
        # A version that is not served has a path of its own.
        path = f"/apis/{manifest['apiVersion']}{scope}/{KINDS[manifest['kind']]}"
        if replace:
            self.call("PUT", f"{path}/{metadata['name']}", manifest)
            return None
        status, answer = self.cluster.call("POST", path, manifest)
        if status == 201:
            return None
        if status in (400, 404, 409, 422):
            return answer["reason"] if isinstance(answer, dict) else "NotFound"
        raise ClusterError(f"POST {path}: {status} {answer}")

    def apply_file(self, file):
        """Every document of a file of manifests, as it is written: the API server reads YAML."""
        for text in re.split(r"^---$", (ROOT / file).read_text(), flags=re.MULTILINE):
            kind, namespace = (re.search(rf"^ *{key}: (\S+)$", text, re.MULTILINE)[1] for key in ("kind", "namespace"))
            self.call("POST", f"{RBAC}/namespaces/{namespace}/{KINDS[kind]}", text)

    def allowed(self, request):
        attributes = {key: value for key, value in request.items() if key not in ("user", "groups")}
        spec = {"user": request.get("user", ""), "groups": request.get("groups", []), "resourceAttributes": attributes}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        return self.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)["status"]["allowed"]

    def settled(self, world, requests):
        """The answers, when they and the rules of all ClusterRoles have not changed for a while."""
        quiet = QUIET[any("aggregationRule" in manifest for manifest in world.objects)]
        deadline = time.monotonic() + LATEST
        last, since = None, 0.0
        while time.monotonic() < deadline:
            roles = self.call("GET", f"{RBAC}/clusterroles")["items"]
            # Around a circle the controller turns the order of the rules for ever.
            rules = {role["metadata"]["name"]: sorted(map(json.dumps, role.get("rules") or [])) for role in roles}
            now = rules, [self.allowed(request) for request in requests]
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since >= quiet:
                return now[1]
            time.sleep(0.05)
        raise ClusterError(f"{world.name}: nothing settled within {LATEST} s")

    def record(self, world):
        self.clear(NAMESPACES)
        requests = [request for i, request in enumerate(world.requests) if request not in world.requests[:i]]
        earlier = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in world.earlier}
        for manifest in world.earlier:
            if reason := self.apply(manifest):
                raise ClusterError(f"{world.name}: an earlier object is refused: {reason}")
        if earlier:
            self.settled(world, requests)
        objects = []
        for manifest in world.objects:
            reason = self.apply(manifest, (manifest["kind"], manifest["metadata"]["name"]) in earlier)
            objects.append(({"refused": reason} if reason else {}) | {"manifest": manifest})
        if world.file:
            self.apply_file(world.file)
        answers = self.settled(world, requests)
        self.check_roles(world, objects)
        return {"name": world.name} | ({"file": world.file} if world.file else {}) | {
            "objects": objects, "requests": [request | {"allowed": allowed} for request, allowed in zip(requests, answers)]}

    def check_roles(self, world, objects):
        """Fails if the cluster has other ClusterRoles than the world."""
        taken = (thing["manifest"] for thing in objects if "refused" not in thing)
        meant = {manifest["metadata"]["name"] for manifest in taken if manifest["kind"] == "ClusterRole"}
        there = {role["metadata"]["name"] for role in self.call("GET", f"{RBAC}/clusterroles")["items"]}
        twice = sum(thing.get("refused") == "AlreadyExists" for thing in objects)
        names = [(thing["manifest"]["kind"], thing["manifest"]["metadata"]) for thing in objects]
        if there != meant or twice != sum(name in names[:i] for i, name in enumerate(names)):
            raise ClusterError(f"{world.name}: something is left of another world: {sorted(there)} instead of {sorted(meant)}")


def written(version, recorded):
    """One line for each object and each request, so that a change shows as what it is."""
    def line(value):
        return json.dumps(value, ensure_ascii=False)

    def lines(values):
        return "[" + ",".join(f"\n    {line(value)}" for value in values) + "]"

    def world(one):
        head = "".join(f'"{key}": {line(one[key])},\n   ' for key in ("name", "file") if key in one)
        return f'  {{{head}"objects": {lines(one["objects"])},\n   "requests": {lines(one["requests"])}}}'

    return f'{{\n"recorded_by": "make rbac-cases",\n"kubernetes": {line(version)},\n"worlds": [\n' + ",\n".join(map(world, recorded)) + "\n]\n}\n"


def main():
    parser = argparse.ArgumentParser(description="Records what a real API server answers to RBAC requests.")
    parser.add_argument("--output", type=Path, default=ROOT / "tests/data/rbac.json")
    output = parser.parse_args().output
    # So that what was started ends with this script also then.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with Cluster(binaries()) as cluster:
        print(f"record_rbac.py: asking {cluster.directory.name}", flush=True)
        recorder = Recorder(cluster)
        recorder.prepare()
        version = recorder.call("GET", "/version")["gitVersion"]
        recorded = []
        for world in worlds():
            recorded.append(recorder.record(world))
            if len(recorded) % 25 == 0:
                print(f"record_rbac.py: … {len(recorded)} worlds", flush=True)
    output.write_text(written(version, recorded))
    answers = [request["allowed"] for world in recorded for request in world["requests"]]
    refused = sum("refused" in thing for world in recorded for thing in world["objects"])
    print(f"record_rbac.py: {len(answers)} answers in {len(recorded)} worlds, {sum(answers)} of them yes; {refused} objects refused")


if __name__ == "__main__":
    try:
        main()
    except ClusterError as error:
        sys.exit(f"record_rbac.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
