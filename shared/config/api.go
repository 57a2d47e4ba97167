package config

import "errors"

// API are the settings of a function of Secrets Manager's API, which machines and
// people call.
type API struct {
	Store Store
	AWS   AWS
	Serving
	Pages
	// Identity is the provider of people.
	Identity  Identity
	Operators Operators
	Sessions  Sessions
}

// Validate implements Validator. Identity is left to the function: one that
// serves machines can do without people.
func (a *API) Validate() error {
	return errors.Join(
		a.Store.Validate(), a.AWS.Validate(), a.Serving.Validate(), a.Pages.Validate(), a.Operators.Validate(), a.Sessions.Validate(),
	)
}
