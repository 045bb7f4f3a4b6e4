//! What the errors of `zookeeper_client` mean.

use zookeeper_client as zk;

use crate::machine::Failure;
use crate::zookeeper::WriteFailure;

impl From<zk::Error> for Failure {
    /// Lists the errors that are definite. With any other error, it is unknown whether the request was carried out.
    fn from(error: zk::Error) -> Failure {
        match error {
            zk::Error::NoNode => Failure::NoNode,
            zk::Error::NoAuth => Failure::NoAuth,
            zk::Error::SessionExpired | zk::Error::AuthFailed | zk::Error::ClientClosed => {
                Failure::SessionGone
            }
            zk::Error::BadArguments(_)
            | zk::Error::BadVersion
            | zk::Error::NoChildrenForEphemerals
            | zk::Error::NodeExists
            | zk::Error::NotEmpty
            | zk::Error::InvalidAcl
            | zk::Error::NotReadOnly
            | zk::Error::QuotaExceeded
            | zk::Error::Throttled
            | zk::Error::MarshallingError
            | zk::Error::Unimplemented => Failure::Refused(error.into()),
            other => Failure::Unknown(other.into()),
        }
    }
}

impl From<zk::Error> for WriteFailure {
    fn from(error: zk::Error) -> WriteFailure {
        match error {
            zk::Error::NoNode => WriteFailure::NoNode,
            zk::Error::NodeExists => WriteFailure::NodeExists,
            zk::Error::BadVersion => WriteFailure::BadVersion,
            zk::Error::NotEmpty => WriteFailure::NotEmpty,
            zk::Error::NoAuth => WriteFailure::NoAuth,
            zk::Error::NoChildrenForEphemerals => WriteFailure::EphemeralParent,
            other => WriteFailure::Rejected(other.to_string()),
        }
    }
}
