//! A private RabbitMQ cluster of three nodes.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{
    START_LIMIT, ServerError,
    node::{Node, NodePlan, Ports},
};

const NODES: usize = 3;

/// Three nodes, each with its own ports, that share queues.
#[derive(Debug)]
pub struct RabbitMqCluster {
    nodes: Vec<Node>,
}

impl RabbitMqCluster {
    /// Starts the nodes and waits until they have found each other.
    pub async fn start() -> Result<Self, ServerError> {
        let names: Vec<String> = (1..=NODES).map(|number| format!("n{number}@localhost")).collect();
        let epmd = Ports::free()?.epmd;
        let mut nodes: Vec<Node> = Vec::new();
        for name in &names {
            let ports = Ports { epmd, ..Ports::free()? };
            let plan = NodePlan {
                name: name.clone(),
                ports,
                own_epmd: nodes.is_empty(),
                cluster: names.clone(),
                environment: String::new(),
            };
            nodes.push(Node::start(plan)?);
        }
        for node in &nodes {
            node.ready(START_LIMIT).await?;
        }
        let cluster = Self { nodes };
        cluster.complete().await?;
        Ok(cluster)
    }

    /// Where AMQP clients connect, node by node.
    pub fn amqp_urls(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("amqp://guest:guest@127.0.0.1:{}/%2f", node.ports.amqp)).collect()
    }

    /// The AMQP port of a node, counted from 0.
    pub fn amqp_port(&self, node: usize) -> u16 {
        self.nodes[node].ports.amqp
    }

    /// Kills a node, counted from 0, with SIGKILL. With the first one the name server ends too: connected nodes stay
    /// connected, but a node that is started afterwards finds no others.
    pub fn kill_9(&self, node: usize) {
        self.nodes[node].kill();
    }

    /// Starts a killed node again with the data it had.
    pub async fn restart(&self, node: usize) -> Result<(), ServerError> {
        self.nodes[node].stop().await;
        self.nodes[node].start_again()?;
        self.nodes[node].ready(START_LIMIT).await
    }

    /// Asks the management API of a node, counted from 0.
    pub async fn management_get(&self, node: usize, path: &str) -> Result<String, ServerError> {
        self.nodes[node].management().call("GET", path, "").await
    }

    async fn complete(&self) -> Result<(), ServerError> {
        let begin = Instant::now();
        loop {
            let nodes = self.management_get(0, "/api/nodes?columns=name,running").await?;
            if nodes.matches("\"running\":true").count() == NODES {
                return Ok(());
            }
            if begin.elapsed() > START_LIMIT {
                return Err(ServerError(format!("the nodes have not found each other after {START_LIMIT:?}: {nodes}")));
            }
            sleep(Duration::from_millis(300)).await;
        }
    }
}
