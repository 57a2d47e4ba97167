package cloud

// Region is one of the clouds, which have no data in common.
type Region string

// Regions.
const (
	US  Region = "US"
	EU  Region = "EU"
	Gov Region = "Gov"
)

type hosts struct{ api, identity, vault string }

var regions = map[Region]hosts{
	US:  {"https://api.bitwarden.com", "https://identity.bitwarden.com", "https://vault.bitwarden.com"},
	EU:  {"https://api.bitwarden.eu", "https://identity.bitwarden.eu", "https://vault.bitwarden.eu"},
	Gov: {"https://api.bitwarden-gov.com", "https://identity.bitwarden-gov.com", "https://vault.bitwarden-gov.com"},
}
