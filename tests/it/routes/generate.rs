//! Gateways, HTTPRoutes and requests from a seed: few names, so that routes overlap and ties are common.

use serde_json::{Value, json};

/// SplitMix64: the same seed, the same world.
pub(crate) struct Random(u64);

/// One Gateway `ns/gw`, its routes, and requests to it.
pub(crate) struct World {
    pub(crate) gateway: Value,
    /// In no order.
    pub(crate) routes: Vec<Value>,
    pub(crate) requests: Vec<Sent>,
}

/// A request as its bytes say it.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) method: &'static str,
    pub(crate) host: String,
    /// With the query.
    pub(crate) target: String,
    pub(crate) headers: Vec<(&'static str, Vec<u8>)>,
}

/// Of the listeners.
pub(crate) const PORTS: [u16; 2] = [80, 8080];

const HOSTNAMES: [&str; 8] = [
    "a.example.com",
    "b.example.com",
    "*.example.com",
    "x.a.example.com",
    "*.a.example.com",
    "example.com",
    "*.com",
    "A.Example.com",
];

/// What clients write as a host: other cases, ports and what is none, final dots, addresses.
const HOSTS: [&str; 24] = [
    "a.example.com",
    "b.example.com",
    "x.a.example.com",
    "y.a.example.com",
    "z.y.a.example.com",
    "c.example.com",
    "example.com",
    "example.org",
    "other.com",
    "A.EXAMPLE.com",
    "a.example.com:80",
    "X.A.example.com:8080",
    "a.example.com.",
    "a.example.com.:80",
    "x.a.example.com.",
    "a.example.com:",
    "a.example.com:99999999999",
    "a.example.com:80:80",
    "127.0.0.1:10000",
    "[::1]",
    "[::1]:8080",
    "::1",
    "com",
    ".example.com",
];

const PREFIXES: [&str; 12] =
    ["/", "/a", "/a/", "/ab", "/a/b", "/a/b/", "/a/b/c", "/A", "/v1/models", "/a%20b", "/a.b", "/~a"];

const PATHS: [&str; 20] = [
    "/",
    "/a",
    "/a/",
    "/ab",
    "/ab/",
    "/a/b",
    "/a/b/",
    "/a/b/c",
    "/a/b/c/d",
    "/a/bc",
    "/abc",
    "/A",
    "/A/b",
    "/v1/models",
    "/v1/models/7",
    "/a%20b",
    "/a%20b/c",
    "/a.b",
    "/axb",
    "/~a/b",
];

/// What RE2 and we have to read alike: classes, flags, alternatives, edges.
const PATH_PATTERNS: [&str; 16] = [
    "/a",
    "/a.*",
    ".*",
    "/.*",
    "/a/b|/ab",
    "/a(/.*)?",
    "^/a/b$",
    "/[a-c]+",
    "/v[0-9]/models(/\\d+)?",
    "(?i)/a/b",
    "/\\w+",
    "/\\w+/\\w+/?",
    "/a{1,2}b?",
    "/[^/]+/[^/]+",
    "/a\\.b",
    "/(a|a/b)(/c)?",
];

const VALUE_PATTERNS: [&str; 14] = [
    "1",
    "\\d+",
    "[0-9]*",
    "",
    ".*",
    ".+",
    "1|2",
    "(?i)red",
    "\\w+",
    "\\S+ \\S+",
    "[^,]*",
    ".*\\b1\\b.*",
    "1,.*",
    "^[[:alpha:]]+$",
];

const VALUES: [&str; 7] = ["1", "2", "red", "1,2", "a b", "1, 2", "%31"];

const HEADERS: [&str; 6] = ["x-a", "X-B", "x-c", "host", "Content-Type", "x_d"];

const HEADER_VALUES: [&[u8]; 16] = [
    b"1",
    b"2",
    b"42",
    b"red",
    b"RED",
    b"1,2",
    b"a b",
    b"",
    b"1, 2",
    b"%31",
    b" 1 ",
    "é".as_bytes(),
    b"\xff",
    b"1!",
    "٣".as_bytes(),
    "\u{a0}".as_bytes(),
];

const PARAMETERS: [&str; 5] = ["p", "q", "P", "p%20q", "r"];

const METHODS: [&str; 6] = ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"];

// === impl Random ===

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    pub(crate) fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    pub(crate) fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    /// Up to `most` of them, each once.
    pub(crate) fn some<'a>(&mut self, of: &[&'a str], most: usize) -> Vec<&'a str> {
        let mut picked: Vec<&str> = Vec::new();
        for _ in 0..self.below(most + 1) {
            let one = self.pick(of);
            if !picked.iter().any(|other| other.eq_ignore_ascii_case(one)) {
                picked.push(one);
            }
        }
        picked
    }
}

// === impl World ===

impl World {
    pub(crate) fn new(seed: u64, requests: usize) -> Self {
        let mut random = Random::new(seed);
        let gateway = gateway(&mut random);
        let mut names: Vec<(&str, &str)> = Vec::new();
        for _ in 0..2 + random.below(7) {
            let name = (random.pick(&["a", "b", "ns"]), random.pick(&["r", "s", "t", "u", "r2"]));
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let routes = names.into_iter().map(|name| route(&mut random, name)).collect();
        let requests = (0..requests).map(|_| Sent::new(&mut random)).collect();
        World { gateway, routes, requests }
    }

    pub(crate) fn listens(&self, port: u16) -> bool {
        self.gateway["spec"]["listeners"].as_array().unwrap().iter().any(|listener| listener["port"] == port)
    }
}

/// Up to four listeners, on one port or two.
fn gateway(random: &mut Random) -> Value {
    let mut listeners: Vec<Value> = Vec::new();
    for _ in 0..1 + random.below(4) {
        let mut listener = json!({"port": if random.percent(75) { PORTS[0] } else { PORTS[1] }, "protocol": "HTTP"});
        if random.percent(60) {
            listener["hostname"] = json!(random.pick(&["*.example.com", "*.a.example.com", "a.example.com", "*.com"]));
        }
        let same = |other: &Value| other["port"] == listener["port"] && other["hostname"] == listener["hostname"];
        if listeners.iter().any(same) {
            continue;
        }
        listener["name"] = json!(format!("l{}", listeners.len()));
        if random.percent(85) {
            listener["allowedRoutes"] = json!({"namespaces": {"from": "All"}});
        }
        listeners.push(listener);
    }
    object("Gateway", ("ns", "gw"), json!({"gatewayClassName": "any", "listeners": listeners}))
}

fn route(random: &mut Random, name: (&str, &str)) -> Value {
    let mut parents = Vec::new();
    for _ in 0..1 + random.below(2) {
        let mut parent = json!({"name": "gw", "namespace": "ns"});
        match random.below(6) {
            0 | 1 => parent["sectionName"] = json!(random.pick(&["l0", "l1", "l2", "l3"])),
            2 => parent["port"] = json!(PORTS[random.below(2)]),
            _ => {}
        }
        parents.push(parent);
    }
    match random.below(5) {
        0 => parents.insert(0, json!({"name": "another", "namespace": "ns"})),
        1 => parents.push(json!({"group": "", "kind": "Service", "name": "mesh"})),
        _ => {}
    }
    let mut spec = json!({"parentRefs": parents});
    let hostnames = random.some(&HOSTNAMES, 3);
    if !hostnames.is_empty() {
        // A capital is refused by the API server and read by us; Envoy's side is lower case.
        spec["hostnames"] = json!(hostnames);
    }
    spec["rules"] = (0..1 + random.below(4)).map(|_| rule(random)).collect();
    object("HTTPRoute", name, spec)
}

pub(crate) fn object(kind: &str, (namespace, name): (&str, &str), spec: Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    })
}

fn rule(random: &mut Random) -> Value {
    let mut rule = json!({"backendRefs": [
        {"name": "one", "port": 80, "weight": random.below(3)},
        {"name": "two", "port": 80, "weight": random.below(3)},
    ]});
    match random.below(10) {
        0 => {}
        1 => rule["matches"] = json!([]),
        _ => rule["matches"] = (0..1 + random.below(3)).map(|_| one_match(random)).collect(),
    }
    rule
}

fn one_match(random: &mut Random) -> Value {
    let mut one = json!({});
    match random.below(10) {
        0 => {}
        1 | 2 => one["path"] = json!({"type": "Exact", "value": random.pick(&PATHS)}),
        3 | 4 => one["path"] = json!({"type": "RegularExpression", "value": random.pick(&PATH_PATTERNS)}),
        5 => one["path"] = json!({"value": random.pick(&PREFIXES)}),
        _ => one["path"] = json!({"type": "PathPrefix", "value": random.pick(&PREFIXES)}),
    }
    if random.percent(25) {
        one["method"] = json!(random.pick(&METHODS));
    }
    if random.percent(35) {
        one["headers"] = random.some(&HEADERS, 3).into_iter().map(|name| value_match(random, name)).collect();
    }
    if random.percent(30) {
        one["queryParams"] = random.some(&PARAMETERS, 2).into_iter().map(|name| value_match(random, name)).collect();
    }
    one
}

fn value_match(random: &mut Random, name: &str) -> Value {
    let (kind, value) = match random.below(3) {
        // An empty value is none, says the API.
        0 => ("RegularExpression", random.pick(&VALUE_PATTERNS)),
        _ if name == "host" => ("Exact", random.pick(&["a.example.com", "A.EXAMPLE.com", "c.example.com"])),
        _ => ("Exact", random.pick(&VALUES)),
    };
    let value = if value.is_empty() { "()" } else { value };
    match kind {
        "Exact" if random.percent(50) => json!({"name": name, "value": value}),
        _ => json!({"name": name, "type": kind, "value": value}),
    }
}

// === impl Sent ===

impl Sent {
    fn new(random: &mut Random) -> Self {
        // Mostly hosts that are served, and paths at their edges.
        let host = if random.percent(70) { random.pick(&HOSTS[..7]) } else { random.pick(&HOSTS) };
        let mut target = random.pick(&PATHS).to_owned();
        if random.percent(50) {
            target.push('?');
            for at in 0..random.below(4) {
                if at > 0 {
                    target.push('&');
                }
                let name = random.pick(&["p", "q", "P", "p%20q", "p+q", "p q", "r", "%70", ""]).replace(' ', "%20");
                let value =
                    random.pick(&["=1", "=2", "=red", "=1,2", "=%31", "=", "", "=1=2", "=42", "=a+b", "=a%20b"]);
                target.push_str(&name);
                target.push_str(value);
            }
        }
        let mut headers = Vec::new();
        if random.percent(60) {
            for _ in 0..random.below(5) {
                let name = random.pick(&["x-a", "X-A", "x-b", "X-B", "x-c", "content-type", "x_d", "x-e"]);
                headers.push((name, HEADER_VALUES[random.below(HEADER_VALUES.len())].to_vec()));
            }
        }
        Sent { method: random.pick(&METHODS), host: host.to_owned(), target, headers }
    }

    /// Names and values, without the blanks around those.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        self.headers.iter().map(|(name, value)| (*name, value.trim_ascii()))
    }

    /// The bytes of HTTP/1.1.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\nhost: {}\r\n", self.method, self.target, self.host).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"content-length: 0\r\n\r\n");
        bytes
    }
}
