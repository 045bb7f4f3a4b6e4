//! Certificates, and servers that show them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use super::server::{DIRECTORY, ServerOptions};
use super::unique_path;

/// A certificate that signs itself, with its key. For a client that trusts it, it is also the authority.
#[derive(Clone)]
pub struct Certificate {
    pub pem: String,
    pub key: String,
    /// Both, as a server reads them.
    store: Vec<u8>,
}

/// The certificate of this process' servers and clients.
pub fn certificate() -> &'static Certificate {
    static CERTIFICATE: OnceLock<Certificate> = OnceLock::new();
    CERTIFICATE.get_or_init(|| Certificate::new(LOOPBACK, &[]))
}

/// The files of a server's certificate, and of those that it trusts.
const STORE: &str = "store.p12";
const TRUSTED: &str = "trusted.pem";

/// The names of this machine, for [`Certificate::new`].
pub const LOOPBACK: &str = "dns:localhost,ip:127.0.0.1";

impl Certificate {
    /// Makes a certificate for these names, such as `dns:localhost`, with further options of `keytool -genkeypair`.
    pub fn new(names: &str, options: &[&str]) -> Certificate {
        let directory = std::env::temp_dir().join(unique_path("lockkeeper-certificate").trim_matches('/'));
        fs::create_dir_all(&directory).expect("a directory");
        let names = format!("san={names}");
        let generate = ["-genkeypair", "-alias", "it", "-keyalg", "EC", "-groupname", "secp256r1"];
        let stored = ["-storetype", "PKCS12", "-keystore", STORE, "-storepass", PASSWORD];
        let named = ["-dname", "CN=lockkeeper", "-ext", &names];
        run(&directory, "keytool", &[&generate[..], &stored, &named, options].concat());
        fs::write(directory.join("Export.java"), EXPORT).expect("written");
        run(&directory, "java", &["Export.java", PASSWORD]);
        let text = |name| fs::read_to_string(directory.join(name)).expect("text");
        let store = fs::read(directory.join(STORE)).expect("a store");
        let made = Certificate { pem: text("certificate.pem"), key: text("key.pem"), store };
        fs::remove_dir_all(&directory).expect("removed");
        made
    }

    /// The files of a server that shows the certificate, and trusts it.
    pub fn files(&self) -> [(&'static str, Vec<u8>); 2] {
        [(STORE, self.store.clone()), (TRUSTED, self.pem.clone().into())]
    }
}

impl ServerOptions {
    /// Clients need TLS and have to show the same certificate.
    pub fn with_tls(mut self, certificate: &Certificate) -> ServerOptions {
        self.tls = true;
        self.files.extend(certificate.files());
        self.jvm.push(format!("-Xbootclasspath/a:{}", NETTY.map(jar).join(":")));
        self.config.extend([
            "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory".to_owned(),
            "authProvider.x509=org.apache.zookeeper.server.auth.X509AuthenticationProvider".to_owned(),
            "ssl.keyStore.type=PKCS12".to_owned(),
            format!("ssl.keyStore.location={DIRECTORY}/{STORE}"),
            format!("ssl.keyStore.password={PASSWORD}"),
            "ssl.trustStore.type=PEM".to_owned(),
            format!("ssl.trustStore.location={DIRECTORY}/{TRUSTED}"),
        ]);
        self
    }
}

const PASSWORD: &str = "changeit";

/// Debian's jar of ZooKeeper names only some of those that Netty consists of.
const NETTY: [&str; 8] = [
    "buffer",
    "codec",
    "common",
    "handler",
    "resolver",
    "transport",
    "transport-native-epoll",
    "transport-native-unix-common",
];

fn jar(part: &str) -> String {
    format!("/usr/share/java/netty-{part}.jar")
}

fn run(directory: &Path, program: &str, arguments: &[&str]) {
    let run = Command::new(program).args(arguments).current_dir(directory).output();
    let output = run.unwrap_or_else(|error| panic!("{program}, of a JDK: {error}"));
    assert!(output.status.success(), "{program}: {output:?}");
}

/// keytool does not export keys.
const EXPORT: &str = r#"
import java.io.File;
import java.nio.file.*;
import java.security.KeyStore;
import java.util.Base64;

class Export {
    public static void main(String[] args) throws Exception {
        char[] password = args[0].toCharArray();
        KeyStore store = KeyStore.getInstance(new File("store.p12"), password);
        write("certificate.pem", "CERTIFICATE", store.getCertificate("it").getEncoded());
        write("key.pem", "PRIVATE KEY", store.getKey("it", password).getEncoded());
    }

    static void write(String file, String kind, byte[] bytes) throws Exception {
        String text = Base64.getMimeEncoder(64, new byte[] {'\n'}).encodeToString(bytes);
        String lines = "-----BEGIN " + kind + "-----\n" + text + "\n-----END " + kind + "-----\n";
        Files.writeString(Path.of(file), lines);
    }
}
"#;
