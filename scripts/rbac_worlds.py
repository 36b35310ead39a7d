"""The worlds that scripts/record_rbac.py asks a real API server about: sets of RBAC objects, each with requests.

First those written by hand, a trap each; then random ones, the same for the same seed.
"""

import itertools
import random
from dataclasses import dataclass, field

API = "rbac.authorization.k8s.io/v1"
GROUP = "rbac.authorization.k8s.io"
KSERVE = "serving.kserve.io"
MODELS = "llminferenceservices"


@dataclass
class World:
    name: str
    objects: list
    requests: list
    # Earlier versions of the objects, applied and settled before.
    earlier: list = field(default_factory=list)
    # A file of manifests, from the project's root, in place of `objects`.
    file: str = ""


def rule(verbs=("post",), resources=(MODELS,), groups=(KSERVE,), names=()):
    written = {"apiGroups": list(groups), "resources": list(resources), "verbs": list(verbs)}
    return written | ({"resourceNames": list(names)} if names else {})


def role(name, *rules, ns="llm", **metadata):
    return {"apiVersion": API, "kind": "Role", "metadata": {"name": name, "namespace": ns, **metadata}, "rules": list(rules)}


def cluster_role(name, *rules, selectors=None, **labels):
    metadata = {"name": name} | ({"labels": labels} if labels else {})
    written = {"apiVersion": API, "kind": "ClusterRole", "metadata": metadata, "rules": list(rules)}
    return written if selectors is None else written | {"aggregationRule": {"clusterRoleSelectors": selectors}}


def user(name):
    return {"kind": "User", "name": name, "apiGroup": GROUP}


def group(name):
    return {"kind": "Group", "name": name, "apiGroup": GROUP}


def account(name, ns=None):
    return {"kind": "ServiceAccount", "name": name} | ({"namespace": ns} if ns is not None else {})


def binding(name, to, *subjects, ns="llm", kind="Role"):
    return {"apiVersion": API, "kind": "RoleBinding", "metadata": {"name": name, "namespace": ns},
            "roleRef": {"apiGroup": GROUP, "kind": kind, "name": to}, "subjects": list(subjects)}


def cluster_binding(name, to, *subjects):
    return {"apiVersion": API, "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": to}, "subjects": list(subjects)}


def ask(**changes):
    """The question of the gate, alice posting to model llm/qwen3, with changes. Empty fields are left out."""
    asked = {"user": "alice", "groups": [], "verb": "post", "group": KSERVE, "resource": MODELS,
             "subresource": "", "namespace": "llm", "name": "qwen3"} | changes
    return {key: value for key, value in asked.items() if value not in ("", [])}


def each(**choices):
    """Every combination of the choices."""
    keys = list(choices)
    return [ask(**dict(zip(keys, values))) for values in itertools.product(*choices.values())]


ALICE = user("alice")


def to_alice(*rules):
    return [role("r", *rules), binding("b", "r", ALICE)]


def rule_worlds():
    names = ["qwen3", "Qwen3", "qwen", "", "*", "llama"]
    yield World("a rule is for its verbs, group, resource and namespace", to_alice(rule()), [
        *each(verb=["post", "get", "POST", "*", ""]), *each(group=[KSERVE, "", "*", "kserve.io", "SERVING.KSERVE.IO"]),
        *each(resource=[MODELS, "llminferenceservice", "*", "", "LLMInferenceServices"], subresource=["", "status"]),
        *each(namespace=["llm", "other", "", "LLM", "*"]), *each(name=names), *each(user=["alice", "Alice", "bob", "*"])])
    yield World("a star among the verbs", to_alice(rule(["get", "*"])), each(verb=["post", "get", "*", "", "impersonate"]))
    yield World("a star inside a verb is none", to_alice(rule(["p*", "*t"])), each(verb=["post", "p*", "*t", "*"]))
    yield World("a star among the groups", to_alice(rule(groups=["*"])), each(group=[KSERVE, "", "apps", "*"]))
    yield World("the core group is the empty one", to_alice(rule(groups=[""])), each(group=["", KSERVE, "*", "core", "v1"]))
    yield World("a star inside a group is none", to_alice(rule(groups=["*.kserve.io"])), each(group=[KSERVE, "*.kserve.io"]))
    yield World("two halves of two rules are no rule", to_alice(rule(["get"]), rule(["post"], ["pods"])),
                each(verb=["get", "post"], resource=[MODELS, "pods"]))
    yield World("no rules", to_alice(), [ask()])
    subresources = ["", "status", "scale", "log", "*"]
    for resources in (["*"], [MODELS], ["pods/log"], ["*/scale"], ["*/*"], ["pods/*"], ["/log"], ["pods/"], [""],
                      ["*/"], ["a/b/c"], ["*/b/c"], ["pods", "*/log"]):
        yield World(f"resources {', '.join(resources) or 'empty'}", to_alice(rule(resources=resources)), [
            *each(resource=[MODELS, "pods"], subresource=subresources),
            *each(resource=["", "*", "a/b", "pods/log", "pods/", "/log", "a"], subresource=["", "c", "log", "b/c"])])
    for listed in (["qwen3"], ["*"], ["llama", "qwen3"], [""], ["qwen*"]):
        yield World(f"resource names {', '.join(listed) or 'empty'}", to_alice(rule(names=listed)),
                    each(name=names, verb=["post", "list"]))
    yield World("resource names and no list", to_alice(rule(), {**rule(["get"]), "resourceNames": []},
                                                       {**rule(["put"]), "resourceNames": None}),
                each(verb=["post", "get", "put"], name=["qwen3", ""]))
    urls = {"nonResourceURLs": ["*"], "verbs": ["*"]}
    yield World("URLs are no resources", [cluster_role("r", urls), cluster_binding("b", "r", ALICE),
                                          binding("b", "r", ALICE, kind="ClusterRole")],
                each(resource=[MODELS, "*", ""], group=[KSERVE, "", "*"], verb=["post", "*"]))


def subject_worlds():
    bot = "system:serviceaccount:team:bot"
    own = "system:serviceaccount:llm:bot"
    callers = [bot, own, "system:serviceaccount:other:bot", "bot", "system:serviceaccount:team:bot2",
               "system:serviceaccount::bot", "team:bot", "SYSTEM:serviceaccount:team:bot"]
    yield World("a ServiceAccount of a namespace", [role("r", rule()), binding("b", "r", account("bot", "team"))], each(user=callers))
    yield World("a ServiceAccount of the binding's namespace", [role("r", rule()), binding("b", "r", account("bot"))],
                each(user=callers, namespace=["llm", "other"]))
    yield World("a ServiceAccount of an empty namespace", [role("r", rule()), binding("b", "r", account("bot", ""))], each(user=callers))
    yield World("a ServiceAccount by its user name", [role("r", rule()), binding("b", "r", user(bot))], each(user=callers))
    yield World("a ServiceAccount cluster-wide", [cluster_role("r", rule()), cluster_binding("b", "r", account("bot", "team"))],
                each(user=callers, namespace=["llm", ""]))
    yield World("a namespace with a colon", [role("r", rule()), binding("b", "r", account("c", "a:b"))],
                each(user=["system:serviceaccount:a:b:c", "system:serviceaccount:a:b", "c"]))
    of_tier = "system:serviceaccounts:maas-default-gateway-tier-premium"
    groups = [[], [of_tier], ["system:authenticated"], ["system:authenticated", of_tier], [of_tier + "x"], ["system:serviceaccounts"],
              [of_tier.upper()], ["system:unauthenticated"], ["*"]]
    for granted in (of_tier, "system:authenticated", "system:unauthenticated", "system:serviceaccounts", "*"):
        yield World(f"the group {granted}", [role("r", rule()), binding("b", "r", group(granted))], [
            *each(groups=groups), *each(user=[""], groups=[[of_tier], ["system:authenticated"]]), ask(user=granted, groups=[])])
    yield World("superusers", [], [
        ask(groups=["system:masters"]), ask(groups=["a", "system:masters"], namespace="", name=""), ask(groups=["system:Masters"]),
        ask(user="system:masters"), ask(user="admin"), ask(user="system:admin"), ask(user="cluster-admin", groups=["cluster-admins"]),
        ask(groups=["system:masters"], verb="*", group="*", resource="*", subresource="*")])
    yield World("a user is no group and a group no user", [role("r", rule()), binding("b", "r", user("devs"), group("alice"))], [
        *each(user=["alice", "devs"], groups=[[], ["devs"], ["alice"]])])
    yield World("any of several subjects", [role("r", rule()), binding("b", "r", user("bob"), group("devs"), account("bot"))], [
        *each(user=["alice", "bob", own], groups=[[], ["devs"], ["ops", "devs", "x"]])])
    yield World("nobody", [role("r", rule()), binding("b", "r"), {**binding("c", "r"), "subjects": None}], [ask(), ask(user="", groups=["a"])])
    yield World("a namespace of a user is no matter", [role("r", rule()), binding("b", "r", {**ALICE, "namespace": "team"})], [ask()])


def binding_worlds():
    where = each(user=["alice"], namespace=["llm", "other", "team", ""])
    yield World("a ClusterRole in one namespace", [cluster_role("r", rule()), binding("b", "r", ALICE, kind="ClusterRole")], where)
    yield World("a ClusterRole everywhere", [cluster_role("r", rule()), cluster_binding("b", "r", ALICE)], where)
    yield World("a Role of another namespace", [role("r", rule()), binding("b", "r", ALICE, ns="other")], where)
    yield World("a role that is not there", [binding("b", "gone", ALICE), binding("c", "gone", ALICE, kind="ClusterRole"),
                                             cluster_binding("d", "gone", ALICE)], where)
    yield World("roles of one name", [
        role("r", rule()), role("r", rule(["get"]), ns="other"), cluster_role("r", rule(["list"])),
        binding("b", "r", ALICE), binding("b", "r", ALICE, ns="other"), binding("b", "r", ALICE, ns="team", kind="ClusterRole")],
        each(verb=["post", "get", "list"], namespace=["llm", "other", "team", ""]))
    yield World("a Role where a ClusterRole is meant", [role("r", rule()), cluster_role("s", rule()),
                                                        binding("b", "r", ALICE, kind="ClusterRole"), binding("c", "s", ALICE)], where)
    yield World("names of odd characters", [
        role("System:Model_Post", rule()), binding("a:B", "System:Model_Post", ALICE),
        role("a b", rule(), ns="other"), binding("c", "a b", ALICE, ns="other")], where)
    yield World("one narrow and one wide binding", [
        role("narrow", rule(names=["llama"])), cluster_role("wide", rule(["post", "get"])),
        binding("b", "narrow", ALICE), cluster_binding("b", "wide", group("devs"))],
        each(groups=[[], ["devs"]], name=["llama", "qwen3", ""], namespace=["llm", "other"]))
    yield World("two objects of one name: the first is there", [role("r", rule(["get"])), role("r", rule()), binding("b", "r", ALICE)],
                each(verb=["get", "post"]))
    for absent in (None, ""):
        filled = binding("b", "r", {**ALICE, "apiGroup": absent}, {**group("devs"), "apiGroup": absent}, {**account("bot"), "apiGroup": absent})
        filled["roleRef"]["apiGroup"] = absent
        yield World(f"API groups that are {'empty' if absent == '' else 'null'} are filled in", [role("r", rule()), filled],
                    each(user=["alice", "x", "system:serviceaccount:llm:bot"], groups=[[], ["devs"]]))
    yield World("an aggregationRule of a Role is nothing", [
        {**role("r", rule()), "aggregationRule": {"clusterRoleSelectors": [{}]}}, cluster_role("s", rule(["get"])), binding("b", "r", ALICE)],
        each(verb=["post", "get"]))


def refused_worlds():
    """What the API server refuses; nothing may be granted through it. Each is refused beside one that is not."""
    def changed(written, **changes):
        return {**written, **changes}

    def referring(**changes):
        written = binding("b", "r", ALICE)
        return changed(written, roleRef={**written["roleRef"], **changes})

    def roles(what, *rules):
        return what, [role("r", *rules), cluster_role("c", *rules), binding("b", "r", ALICE), cluster_binding("b", "c", ALICE)]

    def bindings(what, *subjects):
        return what, [role("r", rule()), cluster_role("r", rule()), binding("b", "r", *subjects), cluster_binding("b", "r", *subjects)]

    other = {"apiGroup": "example.com"}
    cases = [
        roles("a rule without verbs", changed(rule(), verbs=[])), roles("a rule without groups", rule(groups=[])),
        roles("a rule without resources", rule(resources=[])), roles("a good rule beside one without verbs", rule(), rule(verbs=[])),
        roles("a rule for resources and URLs", changed(rule(), nonResourceURLs=["/x"])),
        roles("a rule for names and URLs", {"nonResourceURLs": ["/x"], "resourceNames": ["x"], "verbs": ["post"]}, rule()),
        roles("a rule for URLs, which a Role cannot have", rule(), {"nonResourceURLs": ["/x"], "verbs": ["get"]}),
        roles("a text for a list", changed(rule(), verbs="post")), roles("a number in a list", changed(rule(), resources=[1, MODELS])),
        ("a label that is no text", [role("r", rule(), labels={"a": 1}), binding("b", "r", ALICE)]),
        ("a label with a space", [role("r", rule(), labels={"a": "b c"}), binding("b", "r", ALICE)]),
        ("a label with a bad key", [role("r", rule(), labels={"a b": "c"}), binding("b", "r", ALICE)]),
        ("a label with two prefixes", [role("r", rule(), labels={"a/b/c": "d"}), binding("b", "r", ALICE)]),
        ("a label with a prefix in capitals", [role("r", rule(), labels={"A.com/b": "c"}), binding("b", "r", ALICE)]),
        ("a long label", [role("r", rule(), labels={"a": "b" * 64}), binding("b", "r", ALICE)]),
        ("a binding with a bad label", [role("r", rule()), changed(binding("b", "r", ALICE), metadata={
            "name": "b", "namespace": "llm", "labels": {"a": "-b"}})]),
        ("names that are no segments of a path", [role("a/b", rule()), binding("b", "a/b", ALICE), role("a%b", rule()),
                                                  binding("c", "a%b", ALICE), role("..", rule()), binding("d", "..", ALICE)]),
        ("a version that is not served", [changed(role("r", rule()), apiVersion=f"{GROUP}/v1beta1"), binding("b", "r", ALICE)]),
        ("a reference of another group", [role("r", rule()), referring(**other)]),
        ("a reference to another kind", [role("r", rule()), referring(kind="role")]),
        ("a reference without a name", [role("r", rule()), referring(name="")]),
        ("a reference without a kind", [role("r", rule()), referring(kind="")]),
        ("a ClusterRoleBinding of a Role", [role("r", rule()), cluster_role("r", rule()), changed(
            cluster_binding("b", "r", ALICE), roleRef={"apiGroup": GROUP, "kind": "Role", "name": "r"})]),
        bindings("a User of another group", {**ALICE, **other}), bindings("a Group of another group", ALICE, {**group("devs"), **other}),
        bindings("a ServiceAccount of a group", ALICE, {**account("bot", "llm"), "apiGroup": GROUP}),
        bindings("a ServiceAccount without a namespace", ALICE, account("bot")),
        bindings("a ServiceAccount with a bad name", ALICE, account("Bot", "llm"), account("a:b", "llm"), account("a/b", "llm")),
        bindings("a subject of no kind", ALICE, {**ALICE, "kind": "Robot"}), bindings("a subject of a lower-case kind", {**ALICE, "kind": "user"}),
        bindings("a subject without a name", ALICE, user("")), bindings("a subject without a kind", ALICE, {"name": "devs", "apiGroup": GROUP}),
    ]
    questions = each(user=["alice", "bob", "system:serviceaccount:llm:bot"], groups=[["devs"]], namespace=["llm", "team"])
    for what, objects in cases:
        yield World(f"refused: {what}", [*objects, role("good", rule(), ns="team"), binding("good", "good", user("bob"), ns="team")], questions)


def aggregation_worlds():
    get, post, put, drop = (rule([verb]) for verb in ("get", "post", "put", "delete"))
    verbs = each(verb=["get", "post", "put", "delete"])
    bound = [binding("b", "all", ALICE, kind="ClusterRole")]

    def tier(*values, operator="In", key="tier"):
        return {"matchExpressions": [{"key": key, "operator": operator} | ({"values": list(values)} if values else {})]}

    labelled = [cluster_role("one", get, tier="free"), cluster_role("two", post, tier="premium"), cluster_role("three", put, stage="beta"),
                cluster_role("four", drop)]
    selectors = {
        "one label": [{"matchLabels": {"tier": "free"}}], "a label of another value": [{"matchLabels": {"tier": "Free"}}],
        "an empty value": [{"matchLabels": {"tier": ""}}], "two labels": [{"matchLabels": {"tier": "free", "stage": "beta"}}],
        "two selectors": [{"matchLabels": {"tier": "free"}}, {"matchLabels": {"stage": "beta"}}],
        "In": [tier("free", "premium", "gold")], "NotIn": [tier("free", operator="NotIn")], "Exists": [tier(operator="Exists")],
        "DoesNotExist": [tier(operator="DoesNotExist")], "everything": [{}], "everything, by empty parts": [{"matchLabels": {}, "matchExpressions": []}],
        "labels and expressions": [{"matchLabels": {"tier": "free"}, **tier("free", operator="NotIn")}],
        "In and NotIn": [{"matchExpressions": [*tier("free", "premium")["matchExpressions"], *tier("free", operator="NotIn")["matchExpressions"]]}],
        "NotIn of another key": [tier("alpha", operator="NotIn", key="stage")], "In of an empty value": [tier("", operator="In")],
    }
    for what, chosen in selectors.items():
        yield World(f"aggregated by {what}", [*labelled, cluster_role("all", selectors=chosen), *bound], verbs)
    by_tier = [{"matchLabels": {"tier": "free"}}]
    by_stage = [{"matchLabels": {"stage": "beta"}}]
    free = cluster_role("one", get, tier="free")
    yield World("aggregated everywhere", [*labelled, cluster_role("all", selectors=by_tier), cluster_binding("b", "all", ALICE)],
                each(verb=["get", "post"], namespace=["llm", "other", ""]))
    yield World("aggregated of aggregated, last first", [
        cluster_role("all", selectors=by_stage), cluster_role("middle", selectors=by_tier, stage="beta"), free, *bound], verbs)
    yield World("aggregated five deep", [
        *(cluster_role(f"level{i}", selectors=[{"matchLabels": {"level": str(i + 1)}}], level=str(i)) for i in range(5)),
        cluster_role("base", get, level="5"), cluster_role("all", selectors=[{"matchLabels": {"level": "0"}}]), *bound], verbs)
    yield World("own rules are replaced", [free, cluster_role("all", post, selectors=by_tier), *bound], verbs)
    yield World("own rules without anything to replace them", [cluster_role("all", post, selectors=by_tier), *bound], verbs)
    yield World("own rules and a match without rules", [
        cluster_role("one", tier="free"), cluster_role("all", post, selectors=by_tier), *bound], verbs)
    yield World("own rules of what is aggregated", [
        cluster_role("middle", post, selectors=by_tier, stage="beta"), free, cluster_role("all", put, selectors=by_stage), *bound], verbs)
    yield World("own rules that stay are aggregated", [
        cluster_role("middle", post, selectors=by_tier, stage="beta"), cluster_role("all", put, selectors=by_stage), *bound], verbs)
    yield World("a role that matches itself", [free, cluster_role("all", post, selectors=by_tier, tier="free"), *bound], verbs)
    yield World("a role that matches itself alone", [cluster_role("all", post, selectors=by_tier, tier="free"), *bound], verbs)
    yield World("a circle of two", [
        free, cluster_role("all", selectors=[*by_tier, {"matchLabels": {"in": "a"}}], **{"in": "b"}),
        cluster_role("middle", selectors=[{"matchLabels": {"in": "b"}}, *by_stage], **{"in": "a"}),
        cluster_role("three", put, stage="beta"), *bound, cluster_binding("c", "middle", user("bob"))],
        each(user=["alice", "bob"], verb=["get", "post", "put"]))
    yield World("a circle of three that nothing flows into", [
        *(cluster_role(name, selectors=[{"matchLabels": {"in": name}}], **{"in": follower})
          for name, follower in (("all", "x"), ("x", "y"), ("y", "all"))), *bound], verbs)
    yield World("everything aggregates everything", [
        *labelled, cluster_role("all", selectors=[{}]), cluster_role("too", selectors=[{}]), *bound, cluster_binding("c", "too", user("bob"))],
        each(user=["alice", "bob"], verb=["get", "post", "put", "delete"]))
    yield World("Roles are not aggregated", [
        role("one", get, labels={"tier": "free"}), cluster_role("two", put, tier="free"), cluster_role("all", selectors=by_tier), *bound], verbs)
    yield World("URLs are aggregated and grant no resource", [
        cluster_role("one", {"nonResourceURLs": ["*"], "verbs": ["*"]}, tier="free"), cluster_role("all", post, selectors=by_tier), *bound], verbs)
    yield World("resource names are aggregated", [
        cluster_role("one", rule(names=["qwen3"]), tier="free"), cluster_role("all", selectors=by_tier), *bound], each(name=["qwen3", "llama", ""]))
    yield World("the labels of the aggregated role in a RoleBinding of another namespace", [
        free, cluster_role("all", selectors=by_tier), binding("b", "all", ALICE, ns="other", kind="ClusterRole")],
        each(verb=["get", "post"], namespace=["llm", "other"]))
    yield World("a label with a prefix", [
        {**free, "metadata": {"name": "one", "labels": {"example.com/to-all": "true"}}},
        cluster_role("all", selectors=[{"matchLabels": {"example.com/to-all": "true"}}]), *bound], verbs)
    yield World("a label that was taken away", [cluster_role("one", get), cluster_role("two", post, tier="free"),
                                                cluster_role("all", selectors=by_tier), *bound], verbs, earlier=[free])
    yield World("a selector that was changed", [*labelled, cluster_role("all", selectors=by_stage), *bound], verbs,
                earlier=[cluster_role("all", selectors=by_tier), *labelled])
    wrong = {
        "no selectors": [], "an unknown operator": [{}, tier("free", operator="Like")], "an operator in lower case": [tier("free", operator="in")],
        "no operator": [{"matchExpressions": [{"key": "tier"}]}], "In without values": [tier(operator="In")], "NotIn without values": [tier(operator="NotIn")],
        "Exists with values": [tier("free", operator="Exists")], "DoesNotExist with values": [tier("free", operator="DoesNotExist")],
        "no key": [{"matchExpressions": [{"operator": "Exists"}]}], "a bad key": [tier(operator="Exists", key="a b")],
        "a bad value": [tier("a b")], "a bad label": [{"matchLabels": {"tier": "a b"}}], "a bad key of a label": [{"matchLabels": {"-tier": "a"}}],
        "a text for selectors": "all",
    }
    for what, chosen in wrong.items():
        # The refused role is matched by one that is not.
        yield World(f"refused: aggregated by {what}", [
            free, cluster_role("all", post, selectors=chosen, stage="beta"), cluster_role("good", selectors=by_stage), *bound,
            binding("c", "good", user("bob"), kind="ClusterRole")], each(user=["alice", "bob"], verb=["get", "post"]))
    yield World("refused: an aggregation without selectors", [
        free, {**cluster_role("all", post), "aggregationRule": {}}, *bound], verbs)
    yield World("refused: what would have been aggregated", [
        cluster_role("one", {**get, "verbs": []}, tier="free"), cluster_role("two", put, tier="free"), cluster_role("all", post, selectors=by_tier),
        *bound], verbs)


def seed_worlds():
    tiers = [["system:authenticated", f"system:serviceaccounts:{instance}-tier-{tier}"]
             for instance in ("maas-default-gateway", "openshift-ai-inference") for tier in ("free", "premium", "enterprise")]
    for seed in ("001", "002"):
        file = f"tests/data/manifests/seed-{seed}-rbac.yaml"
        yield World(f"the manifests of seed {seed}", [], each(groups=tiers, namespace=["llm", "model-serving"], verb=["post", "get"]), file=file)


class Dice:
    """Random choices that depend on nothing but the seed: Python promises that of `random` alone."""

    def __init__(self, seed):
        self.random = random.Random(seed).random

    def once_in(self, n):
        return self.random() * n < 1

    def pick(self, choices):
        return choices[int(self.random() * len(choices))]

    def some(self, choices, most):
        picked = [self.pick(choices) for _ in range(1 + int(self.random() * most))]
        return list(dict.fromkeys(picked))


VERBS = ["get", "post", "list"]
GROUPS = [KSERVE, "", "apps"]
RESOURCES = [MODELS, "pods", "deployments"]
NAMES = ["qwen3", "llama"]
NAMESPACES = ["llm", "other", "team"]
USERS = ["alice", "bob", "system:serviceaccount:team:bot", "system:serviceaccount:llm:bot"]
CALLER_GROUPS = ["devs", "ops", "system:authenticated", "system:serviceaccounts:team"]
LABELS = {"tier": ["free", "premium"], "stage": ["beta", "ga"]}


def random_rule(dice):
    resources = RESOURCES + ["*", "pods/log", "*/log", f"{MODELS}/status"]
    return rule(dice.some(VERBS + ["*"], 2), dice.some(resources, 2), dice.some(GROUPS + ["*"], 2), dice.some(NAMES, 2) if dice.once_in(4) else ())


def random_selector(dice):
    key = dice.pick(list(LABELS))
    choice = dice.pick(["label", "label", "In", "NotIn", "Exists", "DoesNotExist"])
    if choice == "label":
        return {"matchLabels": {key: dice.pick(LABELS[key])}}
    values = {"values": dice.some(LABELS[key], 2)} if choice.endswith("In") else {}
    return {"matchExpressions": [{"key": key, "operator": choice, **values}]}


def random_cluster_roles(dice, layered):
    """Free ones select by any label, and so may go in circles; layered ones do not, and have rules of their own."""
    for i in range(3):
        labels = {key: dice.pick(values) for key, values in LABELS.items() if not dice.once_in(3)}
        yield cluster_role(f"c{i}", *(random_rule(dice) for _ in range(1 + dice.once_in(2))), **labels, **({"layer": "0"} if layered else {}))
    for i in range(1, 4):
        if layered:
            below = {"key": "layer", "operator": "In", "values": [str(layer) for layer in range(i)]}
            chosen = random_selector(dice) if dice.once_in(2) else {}
            selectors = [{**chosen, "matchExpressions": [*chosen.get("matchExpressions", []), below]}]
            own = [random_rule(dice)] if dice.once_in(2) else []
            yield cluster_role(f"a{i}", *own, selectors=selectors, layer=str(i))
        else:
            labels = {key: dice.pick(values) for key, values in LABELS.items() if dice.once_in(2)}
            yield cluster_role(f"a{i}", selectors=[random_selector(dice) for _ in range(1 + dice.once_in(3))], **labels)


def random_subject(dice):
    return dice.pick([user(dice.pick(USERS)), group(dice.pick(CALLER_GROUPS)), account("bot"), account("bot", dice.pick(NAMESPACES))])


def random_world(seed):
    dice = Dice(seed)
    objects = list(random_cluster_roles(dice, layered=seed % 2 == 0))
    objects += [role(f"r{i}", random_rule(dice), ns=ns) for i, ns in enumerate(NAMESPACES)]
    cluster_names = [f"c{i}" for i in range(3)] + [f"a{i}" for i in range(1, 4)]
    for i in range(4):
        kind = dice.pick(["Role", "ClusterRole", "ClusterRole"])
        at = dice.pick([0, 1, 2])
        to = dice.pick(cluster_names) if kind == "ClusterRole" else dice.pick([f"r{at}", f"r{at}", "r0"])
        objects.append(binding(f"b{i}", to, *(random_subject(dice) for _ in range(2)), ns=NAMESPACES[at], kind=kind))
    objects.append(cluster_binding("b", dice.pick(cluster_names), user(dice.pick(USERS))))
    requests = [ask(user=dice.pick(USERS), groups=dice.some(CALLER_GROUPS, 2), verb=dice.pick(VERBS), group=dice.pick(GROUPS),
                    resource=dice.pick(RESOURCES), subresource=dice.pick(["", "", "", "log"]), namespace=dice.pick(NAMESPACES + [""]),
                    name=dice.pick(NAMES + [""])) for _ in range(30)]
    distinct = {tuple(sorted((key, str(value)) for key, value in request.items())): request for request in requests}
    return World(f"random, seed {seed}", objects, list(distinct.values()))


def worlds(random_worlds=30):
    yield from rule_worlds()
    yield from subject_worlds()
    yield from binding_worlds()
    yield from refused_worlds()
    yield from aggregation_worlds()
    yield from seed_worlds()
    for seed in range(random_worlds):
        yield random_world(seed)
