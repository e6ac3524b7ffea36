// The identity of the app. One that lives longer than the app, so that its roles can be there before it starts.

import { tagsType } from '../types.bicep'

@description('Required. Name of the user-assigned managed identity.')
param name string

@description('Required. Region of the identity.')
param location string

@description('Required. Tags of the identity.')
param tags tagsType

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: name
  location: location
  tags: tags
}

@description('Resource id, for the app to be given the identity.')
output id string = identity.id

@description('Client id, for the app to say which identity it means.')
output clientId string = identity.properties.clientId

@description('Principal id, for role assignments.')
output principalId string = identity.properties.principalId
