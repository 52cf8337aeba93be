//! The parts of the page, and measuring them anew.

/// One file of results of the page.
pub(super) struct Part {
    /// The file's name without its extension.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// What the reader has to know about it, Markdown.
    pub(super) text: &'static str,
    /// What is measured, as on the command line.
    pub(super) arguments: &'static [&'static str],
}

/// In the order of the page.
pub(super) const PARTS: &[Part] = &[
    Part {
        name: "equal-settings",
        title: "Equal settings",
        text: "Every executor, with the same windows, limits, packets and \
               cryptography on all sides.",
        arguments: &[
            "--executors",
            "all",
            "--rivals",
            "quinn-tokio,quinn-tokio-multi,quinn-smol",
            "--workloads",
            "download,upload,download-streams,upload-streams,connections,requests,latency,\
             datagrams,memory,idle,loss",
        ],
    },
    Part {
        name: "handshakes",
        title: "Handshakes",
        text: "With equal settings: full, resumed, with 0-RTT, and what a storm of them does to the \
               round trips of a connection that is already there.",
        arguments: &[
            "--executors",
            "all",
            "--rivals",
            "quinn-tokio,quinn-tokio-multi,quinn-smol",
            "--workloads",
            "handshakes,resumed,zero-rtt,storm",
        ],
    },
    Part {
        name: "slow-keys",
        title: "A storm of handshakes with slow keys",
        text: "Round trips of a connection that is already there, while 500 handshakes per second with \
               an RSA-4096 certificate arrive at the same server on one core.",
        arguments: &[
            "--executors",
            "smol,tokio,glommio,blocking",
            "--rivals",
            "quinn-tokio",
            "--workloads",
            "storm-rsa",
        ],
    },
    Part {
        name: "glommio",
        title: "Thread per core",
        text: "glommio, on io_uring, beside two others in one run.",
        arguments: &[
            "--executors",
            "smol,tokio,glommio",
            "--rivals",
            "quinn-tokio",
            "--workloads",
            "download,upload,connections,requests,latency,handshakes,memory,idle",
        ],
    },
    Part {
        name: "scale",
        title: "One socket or several",
        text: "Many connections on two cores, which both sides have to share, so that processor \
               time says more than throughput: several threads with one socket between them \
               (`-multi`), with one each (`-multi-shards`), and the same with the kernel spreading datagrams by \
               addresses only, so that half of them have to be handed over (`-multi-handover`).",
        arguments: &[
            "--executors",
            "smol,smol-multi,smol-multi-shards,tokio,tokio-multi,tokio-multi-shards,\
             tokio-multi-handover,glommio,glommio-multi",
            "--rivals",
            "quinn-tokio,quinn-tokio-multi",
            "--workloads",
            "connections,requests-connections",
            "--server-cores",
            "0,1",
            "--client-cores",
            "0,1",
        ],
    },
    Part {
        name: "own-defaults",
        title: "Each as it comes",
        text: "Default transport settings, path MTU discovery and each stack’s own order of cipher \
               suites: what one gets without setting anything.",
        arguments: &[
            "--providers",
            "own-defaults",
            "--executors",
            "smol,tokio",
            "--rivals",
            "quinn-tokio",
            "--workloads",
            "download,upload,requests,handshakes",
        ],
    },
    Part {
        name: "packet-sizes",
        title: "Packet sizes",
        text: "The least that every path carries, the usual path, jumbo frames, and the most that loopback \
               takes.",
        arguments: &[
            "--packet-sizes",
            "1200,1452,8972,max",
            "--executors",
            "smol,tokio",
            "--rivals",
            "quinn-tokio",
            "--workloads",
            "download,upload",
        ],
    },
    Part {
        name: "ring",
        title: "With ring",
        text: "Cryptography by ring on all sides.",
        arguments: &[
            "--providers",
            "ring",
            "--executors",
            "smol,tokio",
            "--rivals",
            "quinn-tokio",
            "--workloads",
            "download,upload,requests,handshakes",
        ],
    },
    Part {
        name: "wasm",
        title: "WebAssembly",
        text: "The same stack compiled to WebAssembly: Node on both sides (`wasm-node`), and a page in \
               Chromium that talks through the relay to a native server on `blocking` (`wasm-browser`), with \
               native `blocking` beside them. The browser and the relay are the client’s side and share \
               its processor time, so both sides of every subject may use both processors.",
        arguments: &[
            "--providers",
            "ring",
            "--executors",
            "blocking,wasm-node,wasm-browser",
            "--rivals",
            "quinn-tokio",
            "--workloads",
            "download,upload,requests,latency,handshakes",
            "--server-cores",
            "0,1",
            "--client-cores",
            "0,1",
        ],
    },
    Part {
        name: "rivals",
        title: "Other stacks",
        text: "Whatever else builds on this machine. These stacks are configured as far as their \
               interfaces allow; what differs is in their settings.",
        arguments: &[
            "--executors",
            "smol,tokio",
            "--rivals",
            "all",
            "--workloads",
            "download,upload,connections,requests,latency,memory",
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::super::options::Options;
    use super::*;

    #[test]
    fn every_part_can_be_measured() {
        for part in PARTS {
            let arguments: Vec<_> = part.arguments.iter().map(|it| (*it).to_owned()).collect();
            let options = Options::parse(&arguments).unwrap().unwrap();
            assert!(!options.cases().is_empty(), "{}", part.name);
            assert!(options.subjects.len() > 1, "{}", part.name);
        }
    }
}
