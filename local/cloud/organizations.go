package cloud

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// passwordDelay is how long the cloud thinks about a wrong secret.
const passwordDelay = 2 * time.Second

// keyType is what an API key of an organisation is for.
type keyType int

const (
	defaultKey     keyType = 0
	billingSyncKey keyType = 1
	scimKey        keyType = 2
)

var keyTypes = map[string]keyType{"default": defaultKey, "billingsync": billingSyncKey, "scim": scimKey}

type apiKey struct {
	value   string
	revised time.Time
}

// key gives the key of a type; false where there is none yet.
func (o *organization) key(t keyType) (apiKey, bool) {
	if t == billingSyncKey {
		return apiKey{o.BillingSyncKey, o.KeyRevision}, o.BillingSyncKey != ""
	}
	k, ok := o.keys[t]
	return k, ok
}

func (c *Cloud) newAPIKey(o *organization, t keyType) apiKey {
	if t == billingSyncKey {
		c.rotate(o)
	} else {
		o.keys[t] = apiKey{c.newKeyText(30), c.Now()}
	}
	k, _ := o.key(t)
	return k
}

// owned gives the organisation of the path if the caller owns it, under the
// lock; nil otherwise, which is a 404.
func (j *job) owned() *organization {
	o := j.cloud.data.organizations[strings.ToLower(j.values["id"])]
	if o == nil || !slices.ContainsFunc(o.Owners, func(email string) bool { return strings.EqualFold(email, j.caller.Subject) }) {
		return nil
	}
	return o
}

type keyRequest struct {
	Type               small   `json:"type"`
	MasterPasswordHash *string `json:"masterPasswordHash"`
	OTP                *string `json:"otp"`
}

type keyAnswer struct {
	Object   string `json:"object"`
	APIKey   string `json:"apiKey"`
	Revision date   `json:"revisionDate"`
}

func (j *job) readAPIKey() answer   { return j.answerKey(false) }
func (j *job) rotateAPIKey() answer { return j.answerKey(true) }

func (j *job) answerKey(rotate bool) answer {
	var request keyRequest
	if err := decode(j.body, &request); err != nil {
		return bindingError(err)
	}
	answered, known := j.makeKey(keyType(request.Type), rotate, request)
	if !known {
		return notFound()
	}
	if answered == nil {
		if j.wait(passwordDelay) != nil {
			return closedConnection()
		}
		return invalidModel("MasterPasswordHash", "Invalid password.")
	}
	return jsonAnswer(http.StatusOK, answered)
}

// makeKey gives the key; nil for a wrong password, which the key is made before
// all the same.
func (j *job) makeKey(t keyType, rotate bool, request keyRequest) (*keyAnswer, bool) {
	c := j.cloud
	c.mu.Lock()
	defer c.mu.Unlock()
	o := j.owned()
	if o == nil || t > scimKey || t == billingSyncKey && o.PlanType.tier() != enterpriseTier && o.PlanType.tier() != teamsTier {
		return nil, false
	}
	k, ok := o.key(t)
	if !ok {
		k = c.newAPIKey(o, t)
	}
	user := c.data.users[j.caller.Subject]
	if !proves(request.MasterPasswordHash, user.MasterPasswordHash) && !proves(request.OTP, user.MasterPasswordHash) {
		return nil, true
	}
	if rotate {
		k = c.newAPIKey(o, t)
	}
	return &keyAnswer{"apiKey", k.value, date{k.revised}}, true
}

// proves tells whether a secret was given and is right. The emulator mails no
// one-time passwords: the hash of the master password is taken for one.
func proves(given *string, right string) bool { return given != nil && *given != "" && *given == right }

func (j *job) keyInformation() answer {
	type information struct {
		Object   string  `json:"object"`
		KeyType  keyType `json:"keyType"`
		Revision date    `json:"revisionDate"`
	}
	wanted := maps.Clone(keyTypes)
	if text := j.values["type"]; text != "" {
		t, ok := keyTypes[strings.ToLower(text)]
		if n, err := strconv.Atoi(text); err == nil {
			t, ok = keyType(n), true
		}
		if !ok {
			return invalidModel("type", fmt.Sprintf("The value '%s' is not valid.", text))
		}
		wanted = map[string]keyType{"": t}
	}
	c := j.cloud
	c.mu.Lock()
	defer c.mu.Unlock()
	o := j.owned()
	if o == nil {
		return notFound()
	}
	list := []information{}
	for _, t := range slices.Sorted(maps.Values(wanted)) {
		if k, ok := o.key(t); ok {
			list = append(list, information{"keyInformation", t, date{k.revised}})
		}
	}
	return jsonAnswer(http.StatusOK, struct {
		Object            string        `json:"object"`
		Data              []information `json:"data"`
		ContinuationToken *string       `json:"continuationToken"`
	}{"list", list, nil})
}

func (j *job) syncStatus() answer {
	c := j.cloud
	c.mu.Lock()
	defer c.mu.Unlock()
	o := j.owned()
	if o == nil {
		return notFound()
	}
	var newest *time.Time
	for _, r := range o.rows {
		if r.LastSyncDate != nil && (newest == nil || r.LastSyncDate.After(*newest)) {
			newest = r.LastSyncDate
		}
	}
	return jsonAnswer(http.StatusOK, struct {
		Object       string `json:"object"`
		LastSyncDate *date  `json:"lastSyncDate"`
	}{"syncStatus", toDate(newest)})
}

type installationAnswer struct {
	Object  string  `json:"object"`
	ID      string  `json:"id"`
	Key     *string `json:"key"`
	Enabled bool    `json:"enabled"`
}

func (j *job) register() answer {
	var request struct {
		Email *string `json:"email"`
	}
	if err := decode(j.body, &request); err != nil {
		return bindingError(err)
	}
	if blank(request.Email) || !strings.Contains(*request.Email, "@") {
		return invalidModel("Email", "The Email field is required.")
	}
	i, err := j.cloud.AddInstallation(Installation{Email: *request.Email})
	if err != nil {
		return serverError()
	}
	return jsonAnswer(http.StatusOK, installationAnswer{"installation", i.ID, &i.Key, true})
}

func (j *job) showInstallation() answer {
	c := j.cloud
	c.mu.Lock()
	defer c.mu.Unlock()
	i := c.data.installations[strings.ToLower(j.values["id"])]
	if i == nil {
		return notFound()
	}
	return jsonAnswer(http.StatusOK, installationAnswer{"installation", i.ID, nil, !i.Disabled})
}
