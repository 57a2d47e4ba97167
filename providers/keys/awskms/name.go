package awskms

import (
	"regexp"
	"strings"
)

// A KMS ARN: of a key (with a key id that KMS makes, or mrk- and 32 digits for
// a multi-Region key) or of an alias.
var (
	keyARN   = regexp.MustCompile(`^arn:([a-z0-9-]+):kms:([a-z0-9-]+):([0-9]{12}):key/(mrk-[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$`)
	aliasARN = regexp.MustCompile(`^arn:([a-z0-9-]+):kms:([a-z0-9-]+):([0-9]{12}):alias/.+$`)
)

const multiRegion = "mrk-"

// name is what the configuration tells of the key. What it does not tell is
// empty.
type name struct {
	configured                     string
	partition, region, account, id string
}

func parseName(configured, region string) name {
	n := name{configured: configured, region: region}
	if key := keyARN.FindStringSubmatch(configured); key != nil {
		n.partition, n.region, n.account, n.id = key[1], key[2], key[3], key[4]
	} else if alias := aliasARN.FindStringSubmatch(configured); alias != nil {
		n.partition, n.region, n.account = alias[1], alias[2], alias[3]
	} else if !strings.HasPrefix(configured, "alias/") {
		n.id = configured
	}
	return n
}

// String is for errors.
func (n name) String() string { return "AWS KMS key " + n.configured }

// matches tells whether the key with this ARN can be the one that is meant, and
// gives the ARN to call it by: of a multi-Region key that of the replica in our
// region, which has the same key material.
func (n name) matches(arn string) (string, bool) {
	key := keyARN.FindStringSubmatch(arn)
	if key == nil {
		return "", false
	}
	partition, region, account, id := key[1], key[2], key[3], key[4]
	if strings.HasPrefix(id, multiRegion) {
		region = n.region
	}
	for _, part := range [][2]string{{n.partition, partition}, {n.region, region}, {n.account, account}, {n.id, id}} {
		if part[0] != "" && part[0] != part[1] {
			return "", false
		}
	}
	return "arn:" + partition + ":kms:" + region + ":" + account + ":key/" + id, true
}
