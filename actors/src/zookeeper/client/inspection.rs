//! Implements what inspection needs.

use zookeeper_client as zk;

use super::Client;
use crate::zookeeper::Answer;
use crate::zookeeper::inspection::{Inspection, Status};

impl Inspection for Client {
    fn status(&self, path: &str) -> Answer<Status> {
        let (client, path) = (self.client.clone(), path.to_owned());
        self.submit(async move { client.check_stat(&path).await?.ok_or(zk::Error::NoNode).map(Status::from) })
    }

    fn data(&self, path: &str) -> Answer<(Vec<u8>, Status)> {
        let (client, path) = (self.client.clone(), path.to_owned());
        self.submit(async move { client.get_data(&path).await.map(|(data, stat)| (data, stat.into())) })
    }

    fn list(&self, path: &str) -> Answer<(Vec<String>, Status)> {
        let (client, path) = (self.client.clone(), path.to_owned());
        self.submit(async move { client.get_children(&path).await.map(|(names, stat)| (names, stat.into())) })
    }

    fn delete_version(&self, path: &str, version: i32) -> Answer<()> {
        let (client, path) = (self.client.clone(), path.to_owned());
        self.submit(async move { client.delete(&path, Some(version)).await })
    }
}

impl From<zk::Stat> for Status {
    fn from(stat: zk::Stat) -> Status {
        Status {
            czxid: stat.czxid,
            created: stat.ctime,
            owner: stat.ephemeral_owner,
            version: stat.version,
            child_changes: stat.cversion,
            children: stat.num_children,
            bytes: stat.data_length,
        }
    }
}
