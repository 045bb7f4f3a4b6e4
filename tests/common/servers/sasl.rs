//! Servers that let in only users who prove their password with SASL.

use super::server::{DIRECTORY, ServerOptions};

impl ServerOptions {
    /// These users and their passwords, and nobody else.
    pub fn with_sasl(mut self, users: &[(&str, &str)]) -> ServerOptions {
        self.files.push((USERS, file(users)));
        self.jvm.push(format!("-Djava.security.auth.login.config={DIRECTORY}/{USERS}"));
        self.config.extend([
            "authProvider.sasl=org.apache.zookeeper.server.auth.SASLAuthenticationProvider".to_owned(),
            "sessionRequireClientSASLAuth=true".to_owned(),
        ]);
        self
    }
}

/// The name of the file of users, which a server reads when it starts.
pub const USERS: &str = "jaas.conf";

/// The content of that file.
pub fn file(users: &[(&str, &str)]) -> Vec<u8> {
    let user = |(name, password): &(&str, &str)| format!(" user_{name}=\"{password}\"");
    let users: String = users.iter().map(user).collect();
    format!("Server {{ org.apache.zookeeper.server.auth.DigestLoginModule required{users}; }};\n")
        .into_bytes()
}
