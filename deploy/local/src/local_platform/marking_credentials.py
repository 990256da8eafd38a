"""A development key for the marks of storage: a root that nobody trusts, and a certificate that it signed."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALIDITY: Final = timedelta(days=30)
_USAGES: Final = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


@dataclass(frozen=True, slots=True)
class MarkingCredentials:
    """All in PEM. ``certificates`` is what storage takes: the key's own and the root's."""

    key: str
    certificates: str
    root: str


def make_marking_credentials(validity: timedelta = VALIDITY) -> MarkingCredentials:
    """A new key and new certificates, which are valid from an hour ago on."""
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root_name, name = _name("Reelhouse development root"), _name("Reelhouse development")
    ends_at = datetime.now(UTC) + validity
    root = _certificate(root_name, root_key.public_key(), root_name, root_key, "key_cert_sign", ends_at)
    leaf = _certificate(name, key.public_key(), root_name, root_key, "digital_signature", ends_at)
    key_text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return MarkingCredentials(key_text, leaf + root, root)


def _certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    usage: str,
    ends_at: datetime,
) -> str:
    """A certificate as C2PA asks for: of one usage, and for the purpose of signing e-mail if it is no authority's."""
    is_authority = usage == "key_cert_sign"
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(hours=1))
        .not_valid_after(ends_at)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**{name: name == usage for name in _USAGES}), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not is_authority:
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purpose, critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Reelhouse"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )
