// App Service authentication: every call but liveness needs a token of the tenant for the app registration.

import { textsType } from '../types.bicep'

@description('Required. Name of the function app.')
param appName string

@description('Required. Client id of the app registration that callers get tokens for.')
param clientId string

@description('Required. Client ids of the applications that may call; empty for all of the tenant.')
param allowedApplications textsType

resource app 'Microsoft.Web/sites@2025-03-01' existing = {
  name: appName
}

resource authentication 'Microsoft.Web/sites/config@2025-03-01' = {
  // checkov:skip=CKV_AZURE_13: meant for authsettings, the older form of this resource
  // checkov:skip=CKV_AZURE_63: meant for the resource config/web, not for this one
  // checkov:skip=CKV_AZURE_65: meant for the resource config/web, not for this one
  // checkov:skip=CKV_AZURE_66: meant for the resource config/web, not for this one
  // checkov:skip=CKV_AZURE_80: meant for .NET apps, by the resource config/web
  // checkov:skip=CKV_AZURE_88: meant for the resource config/web; Flex Consumption mounts no file share
  // checkov:skip=CKV_AZURE_222: meant for the resource config/web; agents call from anywhere, with a token
  parent: app
  name: 'authsettingsV2'
  properties: {
    platform: {
      enabled: true
    }
    globalValidation: {
      requireAuthentication: true
      unauthenticatedClientAction: 'Return401'
      excludedPaths: [
        '/api/health/live'
        '/api/console' // the empty page; what it shows needs a token
        '/api/console/*'
        '/api/signed' // links of the app, which a signature protects
        '/api/signed/*'
      ]
    }
    httpSettings: {
      requireHttps: true
    }
    // Tokens are only checked, nobody signs in here: no client secret, no token store.
    identityProviders: {
      azureActiveDirectory: {
        enabled: true
        registration: {
          clientId: clientId
          openIdIssuer: '${environment().authentication.loginEndpoint}${tenant().tenantId}/v2.0'
        }
        validation: {
          allowedAudiences: [
            clientId
            'api://${clientId}'
          ]
          defaultAuthorizationPolicy: {
            allowedApplications: allowedApplications
          }
        }
      }
    }
    login: {
      tokenStore: {
        enabled: false
      }
    }
  }
}
