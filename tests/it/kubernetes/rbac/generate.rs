//! Roles, bindings and questions from a seed: few names, so that grants are common and near misses too.

use serde_json::{Value, json};

use crate::routes::generate::Random;

const API: &str = "rbac.authorization.k8s.io/v1";
pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";

const VERBS: [&str; 6] = ["post", "get", "list", "create", "POST", "*"];
const API_GROUPS: [&str; 5] = ["serving.kserve.io", "", "apps", "kserve.io", "*"];
/// Of rules. Not all of them name anything.
const RESOURCES: [&str; 12] = [
    "llminferenceservices",
    "llminferenceservices",
    "llminferenceservices/status",
    "pods",
    "pods/log",
    "pods/*",
    "*",
    "*/log",
    "*/*",
    "*/status",
    "",
    "/log",
];
/// Of questions.
const ASKED: [&str; 6] = ["llminferenceservices", "pods", "pods/log", "deployments", "*", ""];
const SUBRESOURCES: [&str; 5] = ["", "", "log", "status", "*"];
const NAMES: [&str; 6] = ["qwen3", "llama", "Qwen3", "qwen", "*", ""];
const USERS: [&str; 5] = ["alice", "bob", "Alice", "*", ""];
const ACCOUNTS: [&str; 2] = ["bot", "robot"];
const GROUPS: [&str; 6] =
    ["devs", "ops", "system:authenticated", "system:unauthenticated", "system:serviceaccounts", "*"];
/// Whatever the cluster has made itself.
const STANDARD_ROLES: [&str; 4] = ["cluster-admin", "system:basic-user", "view", "system:kube-scheduler"];

/// A question, as a SubjectAccessReview asks it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Question {
    pub(crate) user: String,
    pub(crate) groups: Vec<String>,
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// What is created in turn, and what is asked then.
pub(crate) struct World {
    pub(crate) namespaces: Vec<String>,
    /// In no order. Some of them the API server refuses.
    pub(crate) objects: Vec<Value>,
    /// Of those that were taken, another version.
    pub(crate) later: Vec<Value>,
    pub(crate) questions: Vec<Question>,
}

/// The label of all that is not in a namespace of the world.
pub(crate) const LABEL: &str = "tiergate-it-world";

impl World {
    pub(crate) fn new(seed: u64, questions: usize) -> Self {
        let mut dice = Random::new(seed);
        let namespaces = ["llm", "other", "team"].map(|name| format!("w{seed}-{name}")).into();
        let mut world = World { namespaces, objects: Vec::new(), later: Vec::new(), questions: Vec::new() };
        let prefix = format!("w{seed}");
        for i in 0..4 {
            // Roles and ClusterRoles of one name.
            let names = [format!("{prefix}-r{i}"), format!("{prefix}:r{i}"), format!("{prefix} R{i}_")];
            let name = &names[if dice.percent(80) { 0 } else { dice.below(3) }];
            for at in 0..world.namespaces.len() {
                if dice.percent(60) {
                    let role = world.role("Role", name, Some(at), &mut dice);
                    world.add(role, &mut dice);
                }
            }
            if dice.percent(80) {
                let role = world.role("ClusterRole", name, None, &mut dice);
                world.add(role, &mut dice);
            }
        }
        for i in 0..8 {
            let at = (i > 1).then(|| dice.below(3));
            let binding = world.binding(&format!("{prefix}-b{i}"), at, &mut dice);
            world.objects.push(binding);
        }
        world.questions = (0..questions).map(|_| world.question(&mut dice)).collect();
        world
    }

    /// Some roles had other rules before.
    fn add(&mut self, role: Value, dice: &mut Random) {
        if dice.percent(25) {
            let mut earlier = role.clone();
            earlier["rules"] = json!([rule(dice)]);
            self.objects.push(earlier);
            self.later.push(role);
        } else {
            self.objects.push(role);
        }
    }

    fn metadata(&self, name: &str, namespace: Option<usize>) -> Value {
        match namespace {
            Some(at) => json!({"name": name, "namespace": self.namespaces[at]}),
            None => json!({"name": name, "labels": {LABEL: "yes"}}),
        }
    }

    fn role(&self, kind: &str, name: &str, namespace: Option<usize>, dice: &mut Random) -> Value {
        let mut rules: Vec<Value> = (0..dice.below(4)).map(|_| rule(dice)).collect();
        if namespace.is_none() && dice.percent(15) {
            rules.push(json!({"nonResourceURLs": ["*"], "verbs": ["*"]}));
        }
        let mut role =
            json!({"apiVersion": API, "kind": kind, "metadata": self.metadata(name, namespace), "rules": rules});
        if namespace.is_none() && dice.percent(10) {
            // Nothing fills it in here: its rules are those that it has.
            role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {LABEL: "yes"}}]});
        }
        role
    }

    fn binding(&self, name: &str, namespace: Option<usize>, dice: &mut Random) -> Value {
        let cluster_role = namespace.is_none() || dice.percent(50);
        let roles: Vec<&str> = self.objects.iter().filter_map(|object| object["metadata"]["name"].as_str()).collect();
        let role = match dice.below(20) {
            // Not there.
            0 => "gone",
            1 if cluster_role => dice.pick(&STANDARD_ROLES),
            _ => dice.pick(&roles),
        };
        let subjects: Vec<Value> = (0..1 + dice.below(3)).map(|_| self.subject(dice)).collect();
        json!({
            "apiVersion": API, "kind": if namespace.is_some() { "RoleBinding" } else { "ClusterRoleBinding" },
            "metadata": self.metadata(name, namespace), "subjects": subjects,
            "roleRef": {"apiGroup": GROUP, "kind": if cluster_role { "ClusterRole" } else { "Role" }, "name": role},
        })
    }

    fn subject(&self, dice: &mut Random) -> Value {
        let namespace = self.namespaces[dice.below(3)].clone();
        match dice.below(12) {
            0..=3 => json!({"kind": "User", "apiGroup": GROUP, "name": dice.pick(&USERS[..4])}),
            4..=5 => json!({"kind": "Group", "apiGroup": GROUP, "name": dice.pick(&GROUPS)}),
            6 => {
                let group = format!("system:serviceaccounts:{namespace}");
                json!({"kind": "Group", "apiGroup": GROUP, "name": group})
            }
            7..=8 => json!({"kind": "ServiceAccount", "name": dice.pick(&ACCOUNTS), "namespace": namespace}),
            // Of the binding's namespace, where it has one; refused elsewhere.
            9 => json!({"kind": "ServiceAccount", "name": dice.pick(&ACCOUNTS)}),
            // A ServiceAccount by the user that it is.
            10 => {
                let user = format!("system:serviceaccount:{namespace}:{}", dice.pick(&ACCOUNTS));
                json!({"kind": "User", "apiGroup": GROUP, "name": user})
            }
            // Which says nothing of a user, or is refused.
            _ => match dice.below(4) {
                0 => json!({"kind": "User", "apiGroup": GROUP, "name": "bob", "namespace": namespace}),
                1 => json!({"kind": "User", "apiGroup": GROUP, "name": ""}),
                2 => json!({"kind": "Group", "apiGroup": "", "name": "devs"}),
                _ => json!({"kind": "Robot", "apiGroup": GROUP, "name": "alice"}),
            },
        }
    }

    /// One at random, or one that some binding grants, with a change or without.
    fn question(&self, dice: &mut Random) -> Question {
        let mut question = self.random_question(dice);
        if dice.percent(80) {
            let granted = self.granted_question(dice);
            let other = std::mem::replace(&mut question, granted.unwrap_or_default());
            match dice.below(12) {
                0 => question.user = other.user,
                1 => question.groups = other.groups,
                2 => question.verb = other.verb,
                3 => question.group = other.group,
                4 => question.resource = other.resource,
                5 => question.subresource = other.subresource,
                6 => question.namespace = other.namespace,
                7 => question.name = other.name,
                _ => {}
            }
        }
        if question.user.is_empty() && question.groups.is_empty() {
            // Nobody cannot be asked about.
            question.user = "alice".to_owned();
        }
        if dice.percent(1) {
            question.groups.push("system:masters".to_owned());
        }
        question
    }

    fn random_question(&self, dice: &mut Random) -> Question {
        let namespace = self.namespaces[dice.below(3)].clone();
        let mut groups: Vec<String> = dice.some(&GROUPS, 3).into_iter().map(str::to_owned).collect();
        let mut user = dice.pick(&USERS).to_owned();
        if dice.percent(30) {
            user = format!("system:serviceaccount:{namespace}:{}", dice.pick(&ACCOUNTS));
            groups.push(format!("system:serviceaccounts:{namespace}"));
        }
        let namespace = if dice.percent(10) { String::new() } else { self.namespaces[dice.below(3)].clone() };
        Question {
            user,
            groups,
            verb: dice.pick(&VERBS).to_owned(),
            group: dice.pick(&API_GROUPS).to_owned(),
            resource: dice.pick(&ASKED).to_owned(),
            subresource: dice.pick(&SUBRESOURCES).to_owned(),
            namespace,
            name: dice.pick(&NAMES).to_owned(),
        }
    }

    /// What a subject of a binding may do by a rule of its role, if there is any.
    fn granted_question(&self, dice: &mut Random) -> Option<Question> {
        let mut question = self.random_question(dice);
        let bindings: Vec<&Value> = self.objects.iter().filter(|object| object.get("roleRef").is_some()).collect();
        let binding = bindings[dice.below(bindings.len())];
        let namespace = binding["metadata"]["namespace"].as_str();
        if let Some(namespace) = namespace {
            question.namespace = namespace.to_owned();
        }
        let reference = &binding["roleRef"];
        let is_meant = |role: &&Value| {
            let of_namespace =
                reference["kind"] == "ClusterRole" || role["metadata"]["namespace"].as_str() == namespace;
            role["kind"] == reference["kind"] && role["metadata"]["name"] == reference["name"] && of_namespace
        };
        // The later version, where there is one.
        let role = self.later.iter().chain(&self.objects).find(is_meant)?;
        let rules: Vec<&Value> =
            role["rules"].as_array()?.iter().filter(|rule| rule.get("resources").is_some()).collect();
        let rule = *rules.get(dice.below(rules.len().max(1)))?;
        let mut one = |field: &str, otherwise: &str| match rule[field].as_array().filter(|values| !values.is_empty()) {
            Some(values) => match values[dice.below(values.len())].as_str() {
                Some("*") if field != "resourceNames" => otherwise.to_owned(),
                value => value.unwrap_or_default().to_owned(),
            },
            None => otherwise.to_owned(),
        };
        question.verb = one("verbs", &question.verb);
        question.group = one("apiGroups", &question.group);
        question.name = one("resourceNames", &question.name);
        let resource = one("resources", &question.resource);
        let (resource, subresource) = resource.split_once('/').unwrap_or((&resource, ""));
        if resource != "*" {
            question.resource = resource.to_owned();
        }
        question.subresource = subresource.to_owned();
        let subjects = binding["subjects"].as_array()?;
        let subject = &subjects[dice.below(subjects.len())];
        let name = subject["name"].as_str()?;
        match subject["kind"].as_str()? {
            "Group" => question.groups.push(name.to_owned()),
            "ServiceAccount" => {
                let of = subject["namespace"].as_str().or(namespace).unwrap_or_default();
                question.user = format!("system:serviceaccount:{of}:{name}");
            }
            _ => question.user = name.to_owned(),
        }
        Some(question)
    }
}

fn rule(dice: &mut Random) -> Value {
    // Without a verb or a group the API server refuses the role.
    let some = |of: &[&'static str], dice: &mut Random| {
        let some = dice.some(of, 3);
        if some.is_empty() && !dice.percent(3) { vec![of[0]] } else { some }
    };
    let mut rule = json!({
        "verbs": some(&VERBS, dice), "apiGroups": some(&API_GROUPS, dice), "resources": some(&RESOURCES, dice),
    });
    if dice.percent(35) {
        rule["resourceNames"] = json!(dice.some(&NAMES, 3));
    }
    rule
}
