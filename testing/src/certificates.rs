//! Certificates of an authority that is thrown away.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Missing, program};

/// An authority of a test's own, and a certificate of it for servers of this machine. They go with this value.
#[derive(Debug)]
pub struct Certificates(tempfile::TempDir);

/// Makes them in the folder where it runs; `$OPENSSL` is set.
const SCRIPT: &str = "\
    key() { \"$OPENSSL\" genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -out \"$1\"; }
    printf '%s\\n' '[req]' 'distinguished_name = dn' 'x509_extensions = ca' '[dn]' \
        '[ca]' 'basicConstraints = critical, CA:TRUE' 'subjectKeyIdentifier = hash' \
        '[server]' 'subjectAltName = IP:127.0.0.1, DNS:localhost' 'basicConstraints = CA:FALSE' \
        'extendedKeyUsage = serverAuth' > conf
    key ca.key
    \"$OPENSSL\" req -new -x509 -config conf -key ca.key -subj '/CN=tests of tidemill' -days 2 -out ca.pem
    key server.key
    \"$OPENSSL\" req -new -config conf -key server.key -subj /CN=localhost -out server.csr
    \"$OPENSSL\" x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile conf -extensions server \
        -days 2 -out server.pem";

impl Certificates {
    /// Makes them.
    ///
    /// # Errors
    /// [`Missing`]
    pub fn make() -> Result<Self, Missing> {
        let openssl = program("openssl").ok_or(Missing("openssl"))?;
        let folder = tempfile::tempdir().unwrap();
        let mut making = Command::new("sh");
        making.args(["-ec", SCRIPT]).env("OPENSSL", openssl).current_dir(folder.path());
        let made = making.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Ok(Self(folder))
    }

    /// What knows the authority trusts the servers; a file in PEM format.
    pub fn authority(&self) -> PathBuf {
        self.folder().join("ca.pem")
    }

    /// The servers' certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder().join("server.pem")
    }

    /// The servers' key.
    pub(crate) fn key(&self) -> PathBuf {
        self.folder().join("server.key")
    }

    fn folder(&self) -> &Path {
        self.0.path()
    }
}
